/* What the machine is called: uname(2), from which libc's gethostname and getdomainname take their answers, too
 * (__uname, in glibc and musl alike: one function, and so one row). */
#include <string.h>
#include <sys/utsname.h>

#include "layer.h"

static char host_name[sizeof((struct utsname *)0)->nodename];
static char domain_name[sizeof host_name];

static bool take_name(struct wire_reader *in, char *name) {
    size_t length;
    const uint8_t *text = wire_get_bytes(in, &length);
    if (in->bad || length >= sizeof host_name)
        return false;
    memcpy(name, text, length);
    return true;
}

bool host_load(struct wire_reader *in) {
    return take_name(in, host_name) && take_name(in, domain_name);
}

int hooked_uname(struct utsname *facts) {
    int result = real_uname(facts);
    if (result == 0 && host_name[0] != '\0') {
        memcpy(facts->nodename, host_name, sizeof host_name);
        /* The last of six fields of one size; its name depends on feature macros. */
        memcpy((char *)facts + sizeof *facts - sizeof domain_name, domain_name, sizeof domain_name);
    }
    return result;
}
