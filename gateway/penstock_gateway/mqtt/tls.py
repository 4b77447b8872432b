"""The TLS side of a link: one context from the options' files, made anew for each connection.

Made anew, so that a renewed certificate counts from the next connection on.
"""

from __future__ import annotations

import ssl

from penstock_gateway.mqtt import LinkOptions
from penstock_models.errors import UsageError


def context(options: LinkOptions) -> ssl.SSLContext | None:
    """None for a plain connection. Without `ca` the system's authorities are trusted; TLS 1.2 at least.

    Raises:
        UsageError: a file is missing or is no certificate or key.
    """
    if not options.tls:
        return None
    try:
        made = ssl.create_default_context(cafile=options.ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"expected the CA certificates of the broker as PEM in {options.ca}: {error}"
        ) from None
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.cert is not None:
        try:
            made.load_cert_chain(options.cert, options.key)
        except (OSError, ssl.SSLError) as error:
            where = f"{options.cert} and {options.key or 'the same file'}"
            raise UsageError(
                f"expected a client certificate and its key as PEM in {where}: {error}"
            ) from None
    return made
