from celery import shared_task


@shared_task(name="shop.order")
def order() -> None:
    """Do nothing."""
