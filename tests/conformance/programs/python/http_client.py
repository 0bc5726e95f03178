"""HTTP by urllib and http.client: by name and by address, connections used again, several threads, errors."""

import http.client
import json
import os
import threading
import urllib.error
import urllib.request

print(json.load(urllib.request.urlopen(f"http://{os.environ['SCENE_INVENTORY']}/items/teapot")))
print(json.load(urllib.request.urlopen("http://inventory/items/by-name"))["item"])
print(
    json.load(
        urllib.request.urlopen(f"http://inventory.{os.environ['SCENE_NAMESPACE']}.svc.cluster.local:80/items/long")
    )["item"]
)
print(json.load(urllib.request.urlopen("http://[fd00:10:96::e05]/items/six")))
connection = http.client.HTTPConnection("storefront", timeout=60)
for number in range(5):
    connection.request("GET", f"/items/{number}")
    response = connection.getresponse()
    print(response.status, response.getheader("Content-Type"), response.read())
for url in ("http://inventory/nothing", "http://inventory:7009/", "http://no-such-name/", "http://10.97.1.1/"):
    try:
        urllib.request.urlopen(url, timeout=60)
    except urllib.error.HTTPError as error:
        print(url, error.code, error.read())
    except urllib.error.URLError as error:
        print(url, error.reason)
answers = {}


def ask(number):
    answers[number] = json.load(urllib.request.urlopen(f"http://inventory/items/{number}"))["item"]


threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(answers.items()))
