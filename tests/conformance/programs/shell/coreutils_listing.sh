# Programs that list and describe.
export TZ=UTC LC_ALL=C
ls /data; ls -A /data/names | od -c | head -5
ls -ldn /data/hello.txt /data/old.txt /data/large.bin /data/fifo /data/socket
ls -ln /data/links | sed 's/ [A-Z][a-z][a-z] .*:.. / /'
ls -i /data/hello.txt /data/hard.txt; ls -R /data/deep; ls -d /data/h*; ls /data/missing; echo $?
ls -ln --time-style=full-iso /data/hello.txt /data/old.txt
stat -c '%n %s %f %h %i %u %g %y %b %B %F' /data/hello.txt /data/fifo /data/links/relative /data
stat -L -c '%n %s %F' /data/links/relative /data/links/to-directory; stat /data/missing; echo $?
stat -f -c '%T %s %l' /data
find /data -type l | sort; find /data -name '00*.txt' | sort | head -3; find /data -perm 0640 | sort
find /data/hundred -size +200c | wc -l; find /data/deep -depth; find /data -newermt 2024-01-01 -type f | wc -l
find /data/permissions -maxdepth 1 -type d | sort; find /data/links -follow -type f 2>/dev/null | sort
du -s --apparent-size -b /data/hundred /data/deep; file=/data/hello.txt; test -f $file && echo f; test -d $file || echo not d
for flag in e f d L p S r w x s u g k; do printf '%s:' $flag; for path in /data/hello.txt /data/links/relative /data/fifo /data/socket /data/permissions/file-4755 /data/missing; do test -$flag $path; printf ' %s' $?; done; echo; done
[ /data/hello.txt -nt /data/old.txt ] && echo newer; [ /data/hello.txt -ef /data/hard.txt ] && echo same
readlink /data/links/relative; readlink -f /data/links/to-link; readlink -e /data/links/dangling; readlink -m /data/a/../b
realpath /data/links/over-root /data/../data/hello.txt; realpath --relative-to=/data/deep /data/links/relative
echo /data/*.txt; echo /data/hundred/0[5-6]?.txt | wc -w; echo /data/links/*; basename /data/hello.txt
