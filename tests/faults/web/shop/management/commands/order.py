from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from tests.faults.web import views
from tests.faults.web.shop.tasks import order


class Command(BaseCommand):
    help = "Send so many tasks, and end."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("number", type=int)

    def handle(self, *_: Any, number: int, **__: Any) -> None:
        for _ in range(number):
            self.stdout.write(f"SENT {views.send(order)}")
        self.stdout.write(f"QUIET {views.quiet()}")
