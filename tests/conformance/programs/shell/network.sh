# curl, bash's own sockets, getent.
curl -sS http://inventory/items/teapot; curl -sS4 http://inventory/items/four; curl -sS 'http://[fd00:10:96::e05]/items/six'
curl -sS -o /dev/null -w '%{http_code} %{remote_ip} %{remote_port}\n' http://storefront/items/x
curl -sS http://no-such-name/; echo $?; curl -sS "http://$SCENE_INVENTORY:7009/" 2>/dev/null; echo $?
curl -sS http://inventory/items/[1-8]; curl -sS file:///data/hello.txt
getent ahosts inventory; getent ahostsv4 stock; getent hosts storefront; getent hosts "$SCENE_INVENTORY"; getent ahosts nobody; echo $?
bash -c 'exec 3<>/dev/tcp/$SCENE_INVENTORY/7 && echo hello >&3 && read -r line <&3 && echo "$line"'
bash -c 'exec 3<>/dev/tcp/inventory/7009' 2>/dev/null; echo $?
bash -c 'exec 3<>/dev/tcp/storefront/7002 && read -r line <&3 && echo "${line%% *}"'
cat /etc/resolv.conf /etc/hosts /etc/hostname
