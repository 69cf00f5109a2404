"""What every dialect needs and that has no meaning of its own: total tables, finding the credential."""
