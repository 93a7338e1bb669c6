"""A classifier packed for AWS Lambda."""
