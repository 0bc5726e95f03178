/* The FILE functions over remote files. */
#include "program.h"

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    static const char *const modes[] = {"r", "rb", "re", "rm", "rc", "rt"};
    for (size_t index = 0; index < sizeof modes / sizeof *modes; index++) {
        FILE *file = fopen("/data/hello.txt", modes[index]);
        char line[64] = "";
        printf("%s: %s %d", modes[index], file ? "open" : strerrorname_np(errno), file ? fileno(file) : -1);
        if (file) {
            printf(" %s", fgets(line, sizeof line, file) ? line : "nothing\n");
            fclose(file);
        }
    }
    FILE *file = fopen("/data/lines.csv", "r");
    char *line = NULL;
    size_t room = 0;
    int lines = 0;
    uint64_t sum = 0;
    for (ssize_t size; (size = getline(&line, &room, file)) > 0; lines++)
        sum = hash(sum, line, (size_t)size);
    printf("getline %d %016jx end %d error %d\n", lines, (uintmax_t)sum, feof(file), ferror(file));
    rewind(file);
    int number = -1, other = -1;
    char word[32] = "";
    printf("fscanf %d", fscanf(file, "%d,item %d,%31s", &number, &other, word));
    printf(" %d %d %s\n", number, other, word);
    SAY(fseek(file, -20, SEEK_END));
    SAY(ftell(file));
    printf("%s", fgets(line, (int)room, file) ? line : "nothing\n");
    printf("%s", fgets(line, (int)room, file) ? line : "nothing\n");
    SAY(ungetc('q', file));
    SAY(fgetc(file));
    SAY(fseek(file, 0, SEEK_SET));
    SAY(fputs("no", file));
    fflush(file);
    SAY(ferror(file));
    file = freopen("/data/hello.txt", "r", file);
    printf("freopen %s", file && fgets(line, (int)room, file) ? line : "failed\n");
    fclose(file);
    file = fdopen(open("/data/kilobyte.bin", O_RDONLY), "r");
    setvbuf(file, NULL, _IONBF, 0);
    char block[2000];
    printf("fread %zu\n", fread(block, 1, sizeof block, file));
    fclose(file);
    file = fopen64("/app/config/features.json", "r");
    printf("%s", file && fgets(line, (int)room, file) ? line : "failed\n");
    fclose(file);
    file = fopen("/data", "r");
    printf("a directory: %s, then %d", file ? "open" : "failed", file ? fgetc(file) : 0);
    printf(" %s\n", strerrorname_np(errno));
    printf("missing: %s\n", fopen("/data/missing", "r") ? "open" : strerrorname_np(errno));
    printf("forbidden: %s\n", fopen("/data/permissions/file-0000", "r") ? "open" : strerrorname_np(errno));
    printf("no such mode: %s\n", fopen("/data/hello.txt", "q") ? "open" : strerrorname_np(errno));
    FILE *saved = stdin;
    if (freopen("/data/hello.txt", "r", stdin))
        printf("stdin: %d %s", fileno(stdin), fgets(line, (int)room, saved) ? line : "nothing\n");
    return 0;
}
