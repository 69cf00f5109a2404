/* What a guest is for. A micro guest that was booted for nothing yet, or a copy of one, is given the settings that it
 * could have been booted with, and goes on as if it had been: its names, volumes, commands and workload are theirs. Who
 * it is has been told before (identity.c); the link's address is not touched here. */
#include "agent.h"

#include <stdio.h>
#include <string.h>

enum { PATIENCE_MS = 10000, PATH_TEXT_MOST = 4095, USER_TEXT_MOST = 255, SEARCH_TEXT_MOST = 256 };

static bool is_configured, is_due;

/* -- what is well formed ----------------------------------------------------------------------------------- */

static bool is_any(const char *text)
{
    return text != NULL;
}

static bool is_folder(const char *text)
{
    return *text && strlen(text) <= PATH_TEXT_MOST;
}

static bool is_user(const char *text)
{
    return *text && strlen(text) <= USER_TEXT_MOST;
}

static bool is_search(const char *text)
{
    return *text && strlen(text) <= SEARCH_TEXT_MOST && text[strcspn(text, "\t\r\n")] == '\0';
}

static bool is_variable(const char *text)
{
    return *text != '=' && strchr(text, '=');
}

/* The first field that is malformed, or `config` where one is unknown: whoever sends it expects something of it. */
static const char *find_unfit(struct pairs request)
{
    static const struct {
        const char *field;
        bool (*is_valid)(const char *text);
    } all[] = {{"verb", is_any},    {"arg", is_any},      {"env", is_variable},  {"cwd", is_folder},
               {"user", is_user},   {"mount", is_volume}, {"search", is_search}, {"hostname", is_any},
               {"address", is_any}, {"gateway", is_any},  {"dns", is_any},      {"machine_id", is_any}};
    const char *key, *value, *field = find_malformed(request);
    while (!field && pairs_next(&request, &key, &value)) {
        size_t i = 0, count = sizeof all / sizeof *all;
        while (i < count && strcmp(key, all[i].field))
            i++;
        if (i == count || !all[i].is_valid(value))
            field = i == count ? "config" : all[i].field;
    }
    return field;
}

/* -- the change -------------------------------------------------------------------------------------------- */

/* One whose volumes are being mounted. When its host leaves, it has never been. */
static bool is_under_way(void)
{
    for (struct process *process = processes; process; process = process->next)
        if (process->finish == configure_finish)
            return true;
    return false;
}

static void take(struct pairs settings, struct buffer *result)
{
    grow_data();
    if (set_names(settings)) {
        complain_errno(result, "dns");
        return;
    }
    replace_config(settings);
    is_configured = is_due = true;
}

bool configure_at_once(struct pairs request, struct buffer *result)
{
    if (!is_init)
        return complain(result, "unsupported", NULL, "the guest has a system of its own");
    if (is_configured || pairs_find(config, "arg", NULL) || is_under_way())
        return complain(result, "busy", NULL, "the guest has been told what it is for");
    const char *field = find_unfit(request);
    if (field)
        return complain(result, "invalid", field, "malformed");
    if (pairs_find(request, "mount", NULL))
        return false;
    take(request, result);
    return true;
}

/* In a child: a disk may have yet to appear, and a file system may be slow. */
int verb_configure(struct pairs request)
{
    const char *failed = mount_volumes(request, PATIENCE_MS);
    return failed ? fail_errno(failed) : 0;
}

void configure_finish(struct process *process)
{
    struct pairs settings;
    if (pairs_start(&settings, process->request.data, process->request.size))
        take(settings, &process->result);
}

void configure_begin(void)
{
    if (!is_due)
        return;
    is_due = false;
    workload_start();
    say_up();
}
