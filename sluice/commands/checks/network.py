"""The way to the API, step by step: name, connection, encryption, answer."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests

from sluice.commands.address import Address
from sluice.commands.checks import Check
from sluice.commands.client import Collector
from sluice.commands.ending import NoAnswer
from sluice.config import Settings, is_this_machine

_PORTS: Final = {"https": 443, "socks5": 1080, "socks5h": 1080}
_BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_NO_PROXY: Final = "export NO_PROXY=127.0.0.1,localhost"


def look(settings: Settings, *, is_dev: bool) -> Iterator[Check]:
    """One check for each step; the first that fails is the last.

    Where a proxy is in between, its name and connection are looked at: it does the rest.
    """
    url = settings.api_url
    host = urlsplit(url).hostname or ""
    proxies = requests.utils.get_environ_proxies(url) if settings.proxied else {}
    proxy = requests.utils.select_proxy(url, proxies)
    if proxy is not None:
        yield _proxy(proxy, host)
        url_there = proxy if "://" in proxy else f"http://{proxy}"
    else:
        url_there = url
    goal = urlsplit(url_there)
    name = goal.hostname or ""
    port = goal.port or _PORTS.get(goal.scheme, 80)
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "it is no name"
        fix = "check the name in SLUICE_API_URL, and this machine's DNS (/etc/resolv.conf)"
        yield Check("DNS", "failed", f"{name} has no address: {told}", fix)
        return
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    yield Check("DNS", "ok", f"{name} is {', '.join(addresses[:4])}")
    try:
        connection = socket.create_connection((name, port), settings.request_timeout[0])
    except OSError as error:
        yield _refused(name, port, error, is_dev=is_dev)
        return
    with connection:
        yield Check("TCP", "ok", f"{name} takes connections on port {port}")
        if goal.scheme == "https":
            encrypted = _encrypted(connection, name)
            yield encrypted
            if encrypted.status == "failed":
                return
    yield _health(url)


def _proxy(proxy: str, host: str) -> Check:
    shown = proxy.rpartition("@")[2]  # without its password
    if is_this_machine(host):
        text = f"the proxy {shown} would be asked for {host}, which is this machine itself"
        return Check("proxy", "warning", text, _NO_PROXY)
    return Check("proxy", "ok", f"{shown} is asked (from the environment)")


def _refused(name: str, port: int, error: OSError, *, is_dev: bool) -> Check:
    if is_dev:
        fix = "start the collector: sluice dev"
    elif isinstance(error, TimeoutError):
        fix = "let this machine out through the firewall, or set HTTPS_PROXY"
    else:
        fix = "check host and port in SLUICE_API_URL, and that the API runs there"
    told = error.strerror or type(error).__name__
    return Check("TCP", "failed", f"{name} takes no connection on port {port}: {told}", fix)


def _encrypted(connection: socket.socket, name: str) -> Check:
    source, bundle = next(
        ((each, os.environ[each]) for each in _BUNDLES if os.environ.get(each)),
        ("certifi", requests.utils.DEFAULT_CA_BUNDLE_PATH),
    )
    try:
        is_folder = Path(bundle).is_dir()
        context = ssl.create_default_context(
            cafile=None if is_folder else bundle, capath=bundle if is_folder else None
        )
    except OSError as error:
        text = f"the CA bundle of {source} cannot be used: {error.strerror}"
        return Check("TLS", "failed", text, f"let {source} name a file of certificates in PEM")
    try:
        with context.wrap_socket(connection, server_hostname=name) as encrypted:
            return Check("TLS", "ok", f"{encrypted.version()}, with a certificate that is accepted")
    except ssl.SSLCertVerificationError as error:
        text = f"the certificate of {name} is not accepted: {error.verify_message}"
        fix = f"export {_BUNDLES[0]}=/path/to/ca.pem with the CA that has signed it"
    except (OSError, ValueError) as error:
        told = getattr(error, "reason", None) or getattr(error, "strerror", None)
        text = f"{name} does not speak TLS there: {told or type(error).__name__}"
        fix = "check the port in SLUICE_API_URL, and whether it is http:// there"
    return Check("TLS", "failed", text, fix)


def _health(url: str) -> Check:
    try:
        answer = Collector(Address(url, None)).get("health")
    except NoAnswer as error:
        fix = "check SLUICE_API_URL: a base URL such as https://sluice.sh/api"
        return Check("health", "failed", str(error), fix)
    status = answer.get("status")
    if status != "ok":
        text = f"{url}/health answers, and does not say that it is well"
        return Check("health", "warning", text, "ask those who run it")
    return Check("health", "ok", f"{url}/health says ok")
