/*
 * What the platform and the libraries offer, decided once. Places of use test these macros, never a
 * version number. Every public header includes this one through base/base.h.
 */
#ifndef MG_BASE_FEATURES_H
#define MG_BASE_FEATURES_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* accept4, memfd_create, SO_PEERCRED, pipe2 */
#endif

#if defined(__linux__) && !defined(MG_PORTABLE) /* defined: as if this were another system */
#define MG_HAVE_MEMFD         1                 /* memfd_create with F_ADD_SEALS */
#define MG_HAVE_PRCTL         1                 /* NO_NEW_PRIVS, DUMPABLE, PDEATHSIG */
#define MG_HAVE_INOTIFY       1
#define MG_HAVE_THREAD_NICE   1 /* nice() is about the calling thread alone */
#define MG_HAVE_EPOLL         1
#define MG_HAVE_SOCKET_FILTER 1 /* SO_ATTACH_FILTER */
#define MG_HAVE_TRANSPARENT   1 /* IP_TRANSPARENT, IP_BIND_ADDRESS_NO_PORT */
#define MG_HAVE_SIOCOUTQ      1 /* how much of a socket's output the other side has not taken */
#endif

#include <limits.h>                              /* says which libc it is */
#if defined(__GLIBC__) && !defined(MG_SANITIZED) /* whose heap is not the C library's */
#define MG_HAVE_MALLOC_TRIM 1
#if __GLIBC_PREREQ(2, 33)
#define MG_HAVE_MALLINFO2 1
#endif
#endif

/* Version numbers of OpenSSL only; nothing here needs its symbols. */
#include <openssl/opensslv.h>
#if OPENSSL_VERSION_NUMBER >= 0x30200000L
#define MG_HAVE_SSL_GROUP_NAME 1 /* SSL_get0_group_name */
#endif
#if OPENSSL_VERSION_NUMBER >= 0x30400000L
#define MG_HAVE_SSL_SESSION_TIME_EX 1 /* SSL_SESSION_get_time_ex and its kin */
#endif
#if OPENSSL_VERSION_NUMBER >= 0x30500000L
#define MG_HAVE_SSL_SIGNATURE_NAME 1 /* SSL_get0_signature_name, and the peer's */
#endif

#include <openssl/opensslconf.h>
#ifndef OPENSSL_NO_NEXTPROTONEG
#define MG_HAVE_NPN 1
#endif

/* For those who include lua.h: lua_closethread, which replaces lua_resetthread. */
#define MG_HAVE_LUA_CLOSETHREAD (LUA_VERSION_RELEASE_NUM >= 50406)

#if defined(__GNUC__)
#define MG_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define MG_UNUSED            __attribute__((unused))
#define MG_NORETURN          __attribute__((noreturn))
#else
#define MG_PRINTF(fmt, args)
#define MG_UNUSED
#define MG_NORETURN
#endif

#endif
