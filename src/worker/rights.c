/*
 * Giving up root, for good: group list, groups, user, capabilities, the bounding set; then whatever
 * an exec could give back. That root is gone is verified, because a call that "worked" is not the
 * proof.
 */
#include "worker/internal.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

#ifdef MG_HAVE_PRCTL
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* Across the change of the user, that is; capabilities_drop comes after it. */
static int
capabilities_keep(struct mg_err *err)
{
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0)
        return 0;
    mg_err_set(err, "keeping capabilities");
    return -1;
}

/* All but CAP_NET_RAW, if that is to stay: for IP_TRANSPARENT it does as well as CAP_NET_ADMIN, and can less. */
static int
capabilities_drop(bool transparent, struct mg_err *err)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}, {0}};
    if (transparent)
        data[0].permitted = data[0].effective = 1u << CAP_NET_RAW;
    if (syscall(SYS_capset, &header, data) != 0) {
        mg_err_set(err, "giving up capabilities");
        return -1;
    }
    return 0;
}

/* What an exec of root could have again. Needs CAP_SETPCAP, so it comes before the rest goes. */
static int
bounding_set_drop(struct mg_err *err)
{
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno != EPERM) {
            mg_err_set(err, "giving up capability %d", cap);
            return -1;
        }
    return 0;
}

static int
privileges_pin(struct mg_err *err)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
        return 0;
    mg_err_set(err, "pinning the rights of the process");
    return -1;
}
#else
static int
capabilities_keep(struct mg_err *err)
{
    (void)err;
    return 0;
}

static int
capabilities_drop(bool transparent, struct mg_err *err)
{
    (void)transparent;
    (void)err;
    return 0;
}

static int
bounding_set_drop(struct mg_err *err)
{
    (void)err;
    return 0;
}

static int
privileges_pin(struct mg_err *err)
{
    (void)err;
    return 0;
}
#endif

static int
group_find(const char *group, gid_t *gid, struct mg_err *err)
{
    const struct group *found = getgrnam(group);
    if (found == NULL) {
        mg_err_setx(err, "group: there is no group \"%s\"", group);
        return -1;
    }
    *gid = found->gr_gid;
    return 0;
}

static int
user_find(const char *user, const char *group, uid_t *uid, gid_t *gid, struct mg_err *err)
{
    const struct passwd *entry = getpwnam(user);
    if (entry == NULL) {
        mg_err_setx(err, "user: there is no user \"%s\"", user);
        return -1;
    }
    *uid = entry->pw_uid;
    *gid = entry->pw_gid;
    return group[0] == '\0' ? 0 : group_find(group, gid, err);
}

static int
user_become(const char *user, const char *group, struct mg_err *err)
{
    uid_t uid, real_uid, effective_uid, saved_uid;
    gid_t gid, real_gid, effective_gid, saved_gid;
    if (user_find(user, group, &uid, &gid, err) != 0)
        return -1;
    if (initgroups(user, gid) != 0 || setresgid(gid, gid, gid) != 0 ||
        setresuid(uid, uid, uid) != 0) {
        mg_err_set(err, "becoming user %s", user);
        return -1;
    }
    if (getresuid(&real_uid, &effective_uid, &saved_uid) != 0 ||
        getresgid(&real_gid, &effective_gid, &saved_gid) != 0 || real_uid != uid ||
        effective_uid != uid || saved_uid != uid || real_gid != gid || effective_gid != gid ||
        saved_gid != gid || (uid != 0 && (setuid(0) == 0 || seteuid(0) == 0))) {
        mg_err_setx(err, "becoming user %s: root could be had again", user);
        return -1;
    }
    return 0;
}

/* Where only a group is named, the user stays root. */
static int
group_become(const char *group, struct mg_err *err)
{
    gid_t gid, real, effective, saved;
    if (group_find(group, &gid, err) != 0)
        return -1;
    if (setgroups(1, &gid) != 0 || setresgid(gid, gid, gid) != 0 ||
        getresgid(&real, &effective, &saved) != 0 || real != gid || effective != gid ||
        saved != gid) {
        mg_err_set(err, "becoming group %s", group);
        return -1;
    }
    return 0;
}

int
mg_rights_drop(const char *user, const char *group, bool transparent, struct mg_err *err)
{
    bool becomes = geteuid() == 0 && user[0] != '\0';
    if (geteuid() == 0 && !becomes && group[0] != '\0' && group_become(group, err) != 0)
        return -1;
    if (becomes && transparent && capabilities_keep(err) != 0)
        return -1;
    if (becomes && (bounding_set_drop(err) != 0 || user_become(user, group, err) != 0 ||
                    capabilities_drop(transparent, err) != 0))
        return -1;
    return privileges_pin(err);
}
