"""Networks on this host: `user` touches nothing, `bridge` owns one bridge with TAPs, rules and a DHCP server."""
