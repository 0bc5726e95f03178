"""A small order service, as one finds it in many shops.

It is configured by its environment and a file, asks the inventory for the stock, and answers over HTTP. It has no idea
where it runs.
"""

import configparser
import json
import os
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


class Orders(BaseHTTPRequestHandler):
    """Answers every request for an order."""

    served = 0

    def do_GET(self) -> None:
        """One line of text."""
        Orders.served += 1
        say(f"request: GET {self.path} from {self.client_address[0]}")
        body = f"the app on the laptop answers {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if Orders.served == 3:
            with urllib.request.urlopen(os.environ["STOREFRONT_URL"]) as answer:
                say(f"customer: {json.load(answer)[-1]['answer'].strip()}")

    def log_message(self, format: str, *args: object) -> None:
        """The line above says enough."""


def main() -> None:
    """Starts the service."""
    say(f"environment: SHOP_GREETING is {os.environ['SHOP_GREETING']!r}")
    config = configparser.ConfigParser()
    with open(os.environ["ORDERS_CONFIG"]) as file:
        config.read_file(file)
    say(f"file: {os.environ['ORDERS_CONFIG']} says that the warehouse is in {config['orders']['warehouse']}")
    with urllib.request.urlopen(os.environ["INVENTORY_URL"]) as answer:
        stock = json.load(answer)
    say(f"call: {os.environ['INVENTORY_URL']} has {stock['in_stock']} of them; it was asked by {stock['asked_by']}")
    server = ThreadingHTTPServer(("", int(os.environ["PORT"])), Orders)
    say(f"serving: port {server.server_port}")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
