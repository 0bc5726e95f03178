# The environment as shells and env see it.
echo "$SHOP_REGION $SHOP_GREETING $PORT ${MISSING-unset} ${LD_PRELOAD-unset}"
env | grep -c '^MIRROR_'; env | grep '^SHOP_'; printenv ORDERS_CONFIG LD_PRELOAD; echo $?
cat "$ORDERS_CONFIG"; SHOP_REGION=mine sh -c 'echo $SHOP_REGION'; env -u SHOP_REGION sh -c 'echo ${SHOP_REGION-unset}'
env -i sh -c 'env | grep -v -e ^PWD= -e ^_= -e ^SHLVL='; env -i A=b env
