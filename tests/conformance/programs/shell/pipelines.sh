# Many short processes: pipes, groups, background jobs, xargs, here documents, traps.
cat /data/lines.csv | grep item | cut -d, -f1 | sort -n | tail -1
{ cat /data/hello.txt; cat /app/config/features.json; } | wc -l
(cat /data/hello.txt; exit 3); echo $?
for n in 1 2 3 4 5 6; do head -1 /data/hundred/00$n.txt & done | sort; wait; echo waited $?
ls /data/hundred/00?.txt | xargs -P 4 -n 2 cat | sort -n | uniq -c
find /data/hundred -name '01?.txt' -exec head -1 {} + | grep -v '==>' | sort
find /data/hundred -name '02?.txt' -exec head -1 {} \; | sort
echo "$(cat /data/hello.txt) and $(wc -l < /data/lines.csv)"
cat <<END
$(head -1 /app/config/orders.ini)
END
env -i /bin/cat /data/hello.txt; env -i PATH=/bin:/usr/bin sh -c 'sh -c "cat /data/hello.txt"'
nohup cat /data/hello.txt 2>/dev/null; nice cat /data/hello.txt; timeout 60 cat /data/hello.txt; setsid -w cat /data/hello.txt
sh -c 'trap "cat /data/hello.txt; exit 9" TERM; kill $$'; echo $?
sh -c 'kill -9 $$'; echo $?
no-such-program; echo $?
exec 5< /data/hello.txt; cat <&5; exec 5<&-
cat /data/lines.csv | head -2
yes | head -1
exit 42
