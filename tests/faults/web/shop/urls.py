from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.faults.web import views
from tests.faults.web.shop.tasks import order


def quiet(_: HttpRequest) -> HttpResponse:
    return HttpResponse(views.quiet())


def send(_: HttpRequest) -> HttpResponse:
    return HttpResponse(views.send(order))


urlpatterns = [path("quiet", quiet), path("send", send)]
