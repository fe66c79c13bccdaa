"""The sections of the page: each one a function from the measured runs to a :class:`~ppssl.reports.section.Section`."""
