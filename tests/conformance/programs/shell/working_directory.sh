# cd, pwd, and programs started in a directory of the pod.
cd /data && pwd && pwd -P && /bin/pwd && ls | head -3 && cat hello.txt
cd links && pwd && cat relative && ls ../hundred | tail -1
cd to-directory && pwd && pwd -P && /bin/pwd && cat 003.txt
cd -P /data/links/to-directory && pwd
cd .. && pwd; cd ../app/config && pwd && cat orders.ini && ls -A
cd /data/missing; echo $?; cd /data/hello.txt; echo $?; cd /data/permissions/directory-0000; echo $?
(cd /data/deep/level0/level1 && find . -name bottom.txt -exec sh -c 'cd "$(dirname "$1")" && /bin/pwd && cat "${1##*/}"' - {} \;)
pwd; cd / && ls -d data app; cd data && cat hello.txt
