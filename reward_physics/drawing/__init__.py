"""Charts and pictures: the only place that knows matplotlib and jinja2."""
