"""Machine runners, one folder each; no folder knows another, and no name of one appears above this package."""
