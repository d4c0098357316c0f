"""How-tos of other products, as they are written with Holdfast. Each runs by itself: `python -m examples.howto.…`."""
