"""Commands that made the embedded models and estimators."""
