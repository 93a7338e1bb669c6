"""What Lambda starts: the classifier is loaded once, before the first event."""

from bertwright.shipping.aws_lambda.handler import Handler

handler = Handler.from_environment()
