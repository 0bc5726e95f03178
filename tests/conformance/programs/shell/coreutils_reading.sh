# Programs that read, and what they say.
cat /data/hello.txt /app/config/orders.ini
head -3 /data/lines.csv; tail -2 /data/lines.csv; tail -c 20 /data/large.bin | od -An -tx1
wc /data/lines.csv; wc -c /data/large.bin
md5sum /data/large.bin /data/kilobyte.bin; sha256sum /data/hello.txt
sort -t, -k3,3n -k1,1nr /data/lines.csv | head -4
grep -c 'item 1' /data/lines.csv; grep -rl inner /data/hundred; grep -n 'item 42,' /data/lines.csv
cut -d, -f2 /data/lines.csv | uniq | wc -l
sed -n '5,6p' /data/lines.csv; awk -F, '{ s += $3 } END { print s }' /data/lines.csv
tac /data/lines.csv | head -1; nl /data/hello.txt; fold -w 7 /data/hello.txt; rev /data/hello.txt
cmp /data/hello.txt /data/hard.txt && echo same; cmp /data/hello.txt /data/empty; echo $?
diff /app/config/orders.ini /data/hello.txt; echo $?
dd if=/data/large.bin bs=1000 skip=100 count=3 2>/dev/null | cksum
od -c /data/hello.txt; base64 /data/kilobyte.bin | tail -1; split -n 1/2 /data/hello.txt
cat /data/missing; echo $?; cat /data; echo $?; cat /data/permissions/file-0000; echo $?; head /data/links/loop; echo $?
while read -r line; do echo "line: $line"; done < /app/config/orders.ini
read -r first < /data/hello.txt; echo "$first"
