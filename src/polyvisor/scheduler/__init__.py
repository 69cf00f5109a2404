"""Where an instance goes. Pure."""
