"""Credentials that guests use and never see: who stands between a guest and the hosts of its vaults' services.

What a guest says over TLS to such a host ends here, with a certificate of an authority that only this installation has
and only such guests believe; it goes on to the same address in a TLS of its own, with the credential in it. Everything
else passes as it is. What may be reached is decided by the guest's own rules: who stands here goes through them.
"""
