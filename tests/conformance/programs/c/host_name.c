/* What the machine is called. */
#include "program.h"

#include <sys/utsname.h>

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    char name[256] = "";
    SAY(gethostname(name, sizeof name));
    printf("%s\n", name);
    char small[5] = "";
    SAY(gethostname(small, sizeof small));
    printf("%.5s\n", small);
    char domain[256] = "";
    SAY(getdomainname(domain, sizeof domain));
    printf("%s\n", domain);
    struct utsname facts;
    SAY(uname(&facts));
    printf("%s %s\n", facts.sysname, facts.nodename);
    fflush(stdout);
    SAY(system("uname -n; hostname; cat /etc/hostname; bash -c 'echo $HOSTNAME'; python3 -c 'import socket; print(socket.gethostname())'"));
    return 0;
}
