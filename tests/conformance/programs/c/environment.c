/* The pod's environment, and changes of one's own that children see. */
#include "program.h"

extern char **environ;

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    static const char *const names[] = {"SHOP_REGION", "SHOP_GREETING", "ORDERS_CONFIG", "PORT", "INVENTORY_URL",
                                        "KUBERNETES_SERVICE_HOST", "HOSTNAME", "MISSING", "LD_PRELOAD"};
    for (size_t index = 0; index < sizeof names / sizeof *names; index++)
        printf("%s=%s\n", names[index], getenv(names[index]) ? getenv(names[index]) : "(unset)");
    int ours = 0;
    for (char **entry = environ; *entry; entry++)
        ours += strncmp(*entry, "MIRROR_", 7) == 0;
    printf("variables of mirror: %d\n", ours);
    setenv("SHOP_REGION", "changed", 1);
    unsetenv("PORT");
    fflush(stdout);
    SAY(system("echo region $SHOP_REGION, port ${PORT-unset}, preload ${LD_PRELOAD-unset}; cat /data/hello.txt"));
    clearenv();
    fflush(stdout);
    SAY(system("echo region ${SHOP_REGION-unset}; cat /data/hello.txt"));
    return 0;
}
