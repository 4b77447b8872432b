"""The largest load that a gateway carries: searched, held, and explained."""
