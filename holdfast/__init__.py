"""Holdfast: durable, versioned application state over RabbitMQ and MongoDB."""
