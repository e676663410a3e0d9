/*
 * The PROXY protocol's headers as bytes, by HAProxy's proxy-protocol.txt (2020/03/05): reading what a proxy
 * in front of us says of its client, and writing what we say of ours. No I/O and no session.
 *
 * The happy path of reading is: the first bytes are those of version 1 ("PROXY ") or of version 2 (the
 * signature), more comes until the header is whole – up to CR LF, or as long as it says – and then it is
 * looked at, all of it or not at all. Whoever calls keeps the bytes, and passes what follows on.
 * Possible failure modes are: the bytes are no header, which the first wrong one shows; the header is longer
 * than it may be, which its first bytes show; something in it is not as the specification has it, its checksum
 * for one. Nothing is guessed: there is a header or the connection is over.
 *
 * LOCAL, UNKNOWN and families that are not specified mean: the sockets' own addresses. The block behind LOCAL is
 * skipped, but for a checksum, which covers it.
 *
 * The happy path of writing is: begin, TLVs, end, where the length and the checksum are filled in. Where not both
 * addresses are IP the header is UNKNOWN, or LOCAL and nothing else: the specification knows AF_UNIX, but HAProxy
 * closes whatever is PROXY and neither TCP over IPv4 nor over IPv6.
 */
#include "proxy/internal.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#define SIGNATURE     "\r\n\r\n\0\r\nQUIT\n"
#define SIGNATURE_LEN 12u
#define FIXED_LEN     16u /* signature, version and command, family, length */
#define TLV_HEAD      3u
#define SSL_HEAD      5u
#define CRC_LEN       4u
#define UNIX_LEN      108u

#define V1_PREFIX     "PROXY "
#define V1_PREFIX_LEN 6u
#define V1_MAX        107u /* CR LF included */

enum { COMMAND_LOCAL = 0x20, COMMAND_PROXY = 0x21 }; /* with the version */
enum { FAMILY_UNSPEC, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX };
enum { TRANSPORT_UNSPEC, TRANSPORT_STREAM, TRANSPORT_DGRAM };

/* ---- checksum -------------------------------------------------------------------------------- */

/* CRC-32C (Castagnoli), a nibble at a time: headers are short. */
static uint32_t
crc32c_add(uint32_t crc, const unsigned char *data, size_t len)
{
    static const uint32_t table[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
        0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };

    while (len-- > 0) {
        crc ^= *data++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return crc;
}

/* Of the header, with zeros in the place of the checksum itself. */
static uint32_t
checksum(const unsigned char *header, size_t len, size_t place)
{
    static const unsigned char zeros[CRC_LEN];
    uint32_t crc = crc32c_add(UINT32_MAX, header, place);

    crc = crc32c_add(crc, zeros, CRC_LEN);
    crc = crc32c_add(crc, header + place + CRC_LEN, len - place - CRC_LEN);
    return ~crc;
}

static uint16_t
read16(const unsigned char *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t
read32(const unsigned char *at)
{
    return (uint32_t)read16(at) << 16 | read16(at + 2);
}

static void
write32(unsigned char *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(value >> (24 - 8 * i));
}

/* ---- TLVs ------------------------------------------------------------------------------------ */

bool
mg_proxy_tlv_next(struct mg_proxy_tlvs *list, struct mg_proxy_tlv *tlv)
{
    if (list->len < TLV_HEAD || list->len - TLV_HEAD < read16(list->data + 1))
        return false;
    tlv->type = list->data[0];
    tlv->len = read16(list->data + 1);
    tlv->value = list->data + TLV_HEAD;
    list->data += TLV_HEAD + tlv->len;
    list->len -= TLV_HEAD + tlv->len;
    return true;
}

bool
mg_proxy_tlv_find(struct mg_proxy_tlvs list, unsigned type, struct mg_proxy_tlv *tlv)
{
    while (mg_proxy_tlv_next(&list, tlv))
        if (tlv->type == type)
            return true;
    return false;
}

/* Whether all of it is TLVs. */
static bool
is_whole(struct mg_proxy_tlvs list)
{
    struct mg_proxy_tlv tlv;

    while (mg_proxy_tlv_next(&list, &tlv))
        ;
    return list.len == 0;
}

/* What is wrong with one, or NULL. */
static const char *
tlv_fault(const struct mg_proxy_tlv *tlv)
{
    switch (tlv->type) {
    case MG_PROXY_UNIQUE_ID:
        return tlv->len > MG_PROXY_UNIQUE_ID_MAX ? "a UNIQUE_ID of more than 128 bytes" : NULL;
    case MG_PROXY_SSL:
        if (tlv->len < SSL_HEAD ||
            !is_whole((struct mg_proxy_tlvs){tlv->value + SSL_HEAD, tlv->len - SSL_HEAD}))
            return "an SSL TLV that is not whole";
        return NULL;
    default:
        return NULL;
    }
}

static const char *
crc_fault(const unsigned char *header, size_t len, struct mg_proxy_tlvs list)
{
    struct mg_proxy_tlv crc, other;

    if (!mg_proxy_tlv_find(list, MG_PROXY_CRC32C, &crc))
        return NULL;
    if (crc.len != CRC_LEN)
        return "a CRC32C that is not 4 bytes long";
    list.len -= (size_t)(crc.value + crc.len - list.data);
    list.data = crc.value + crc.len;
    if (mg_proxy_tlv_find(list, MG_PROXY_CRC32C, &other))
        return "two CRC32Cs";
    if (read32(crc.value) != checksum(header, len, (size_t)(crc.value - header)))
        return "the CRC32C is not that of the header";
    return NULL;
}

static const char *
tlvs_fault(const unsigned char *header, size_t len, struct mg_proxy_tlvs list)
{
    struct mg_proxy_tlvs rest = list;
    struct mg_proxy_tlv tlv;
    const char *fault;

    while (mg_proxy_tlv_next(&rest, &tlv))
        if ((fault = tlv_fault(&tlv)) != NULL)
            return fault;
    return rest.len > 0 ? "a TLV that is longer than the header" : crc_fault(header, len, list);
}

/* ---- reading: version 2 ---------------------------------------------------------------------- */

static enum mg_proxy_status
refused(struct mg_proxy_header *header, enum mg_proxy_refusal refusal, const char *detail)
{
    header->refusal = refusal;
    header->detail = detail;
    return MG_PROXY_REFUSED;
}

static enum mg_proxy_status
malformed(struct mg_proxy_header *header, const char *detail)
{
    return refused(header, MG_PROXY_MALFORMED, detail);
}

static void
inet_set(struct mg_addr *addr, const unsigned char *ip, const unsigned char *port)
{
    addr->u.in.sin_family = AF_INET;
    memcpy(&addr->u.in.sin_addr, ip, 4);
    memcpy(&addr->u.in.sin_port, port, 2);
    addr->len = sizeof(addr->u.in);
}

static void
inet6_set(struct mg_addr *addr, const unsigned char *ip, const unsigned char *port)
{
    addr->u.in6.sin6_family = AF_INET6;
    memcpy(&addr->u.in6.sin6_addr, ip, 16);
    memcpy(&addr->u.in6.sin6_port, port, 2);
    addr->len = sizeof(addr->u.in6);
}

/* A path ends with its first NUL; an abstract name, which begins with one, before the NULs at the end. */
static void
unix_set(struct mg_addr *addr, const unsigned char *path)
{
    size_t head = offsetof(struct sockaddr_un, sun_path), len = UNIX_LEN;

    if (path[0] != '\0')
        len = strnlen((const char *)path, UNIX_LEN);
    else
        while (len > 0 && path[len - 1] == '\0')
            len--;
    addr->u.un.sun_family = AF_UNIX;
    memcpy(addr->u.un.sun_path, path, len);
    addr->len = (socklen_t)(head + len);
}

static size_t
block_len(unsigned family)
{
    static const size_t lengths[] = {
        [FAMILY_INET] = 12, [FAMILY_INET6] = 36, [FAMILY_UNIX] = 2 * UNIX_LEN};

    return family < MG_ARRAY_LEN(lengths) ? lengths[family] : 0;
}

static void
block_read(struct mg_proxy_header *header, unsigned family, const unsigned char *block)
{
    switch (family) {
    case FAMILY_INET:
        inet_set(&header->source, block, block + 8);
        inet_set(&header->destination, block + 4, block + 10);
        break;
    case FAMILY_INET6:
        inet6_set(&header->source, block, block + 32);
        inet6_set(&header->destination, block + 16, block + 34);
        break;
    case FAMILY_UNIX:
        unix_set(&header->source, block);
        unix_set(&header->destination, block + UNIX_LEN);
        break;
    default:
        break;
    }
}

/* The addresses are the sockets' own: what is there is skipped, unless it is TLVs. */
static enum mg_proxy_status
unspecified(struct mg_proxy_header *header, const unsigned char *data, struct mg_proxy_tlvs rest)
{
    const char *fault;

    header->own_addresses = true;
    if (!is_whole(rest))
        return MG_PROXY_COMPLETE;
    fault =
        header->local ? crc_fault(data, header->len, rest) : tlvs_fault(data, header->len, rest);
    if (fault != NULL)
        return malformed(header, fault);
    if (!header->local)
        header->tlvs = rest;
    return MG_PROXY_COMPLETE;
}

static enum mg_proxy_status
v2_take(struct mg_proxy_header *header, const unsigned char *data)
{
    unsigned family = data[13] >> 4, transport = data[13] & 15;
    size_t block = block_len(family);
    struct mg_proxy_tlvs rest = {data + FIXED_LEN, header->len - FIXED_LEN};
    const char *fault;

    if (block > rest.len) {
        if (header->local)
            return unspecified(header, data, rest);
        return malformed(header, "shorter than the addresses of its family");
    }
    rest.data += block;
    rest.len -= block;
    if (header->local || family == FAMILY_UNSPEC || transport == TRANSPORT_UNSPEC)
        return unspecified(header, data, rest);
    if ((fault = tlvs_fault(data, header->len, rest)) != NULL)
        return malformed(header, fault);
    block_read(header, family, data + FIXED_LEN);
    header->tlvs = rest;
    return MG_PROXY_COMPLETE;
}

static enum mg_proxy_status
v2_read(const unsigned char *data, size_t len, struct mg_proxy_header *header)
{
    if (len > SIGNATURE_LEN && data[12] >> 4 != 2)
        return malformed(header, "its version is not 2");
    if (len > SIGNATURE_LEN && data[12] != COMMAND_LOCAL && data[12] != COMMAND_PROXY)
        return malformed(header, "its command is neither LOCAL nor PROXY");
    header->local = len > SIGNATURE_LEN && data[12] == COMMAND_LOCAL;
    if (len > SIGNATURE_LEN + 1 && !header->local &&
        (data[13] >> 4 > FAMILY_UNIX || (data[13] & 15) > TRANSPORT_DGRAM))
        return malformed(header, "its family or transport is not known");
    if (len < FIXED_LEN)
        return MG_PROXY_MORE;
    header->len = FIXED_LEN + read16(data + 14);
    if (header->len > MG_PROXY_HEADER_MAX)
        return refused(header, MG_PROXY_OVERSIZE, "longer than 16384 bytes");
    return len < header->len ? MG_PROXY_MORE : v2_take(header, data);
}

/* ---- reading: version 1 ---------------------------------------------------------------------- */

/* Takes the next word off a line that ends with a NUL: exactly one space lies between two. */
static char *
word_next(char **line)
{
    char *word = *line, *space = strchr(word, ' ');

    if (space == NULL)
        *line = word + strlen(word);
    else
        *space = '\0', *line = space + 1;
    return word;
}

static bool
port_read(const char *text, unsigned char out[2])
{
    unsigned value = 0;
    size_t len = strspn(text, "0123456789");

    if (len == 0 || len > 5 || text[len] != '\0' || (text[0] == '0' && len > 1))
        return false;
    for (size_t i = 0; i < len; i++)
        value = 10 * value + (unsigned)(text[i] - '0');
    out[0] = (unsigned char)(value >> 8);
    out[1] = (unsigned char)value;
    return value <= 65535;
}

/* "TCP4 1.2.3.4 5.6.7.8 9 10"; the line is torn up. What is wrong, or NULL. */
static const char *
v1_fault(struct mg_proxy_header *header, char *line)
{
    unsigned char source[16], destination[16], source_port[2], destination_port[2];
    const char *protocol = word_next(&line);
    const char *source_text = word_next(&line), *destination_text = word_next(&line);
    const char *source_port_text = word_next(&line), *destination_port_text = line;
    int family = strcmp(protocol, "TCP4") == 0   ? AF_INET
                 : strcmp(protocol, "TCP6") == 0 ? AF_INET6
                                                 : AF_UNSPEC;

    if (family == AF_UNSPEC)
        return "its protocol is none of TCP4, TCP6, UNKNOWN";
    if (inet_pton(family, source_text, source) != 1)
        return "its source is no address of its protocol";
    if (inet_pton(family, destination_text, destination) != 1)
        return "its destination is no address of its protocol";
    if (!port_read(source_port_text, source_port) ||
        !port_read(destination_port_text, destination_port))
        return "its ports are not two numbers from 0 to 65535";
    if (family == AF_INET) {
        inet_set(&header->source, source, source_port);
        inet_set(&header->destination, destination, destination_port);
    } else {
        inet6_set(&header->source, source, source_port);
        inet6_set(&header->destination, destination, destination_port);
    }
    return NULL;
}

static enum mg_proxy_status
v1_take(struct mg_proxy_header *header, const unsigned char *data)
{
    char line[V1_MAX];
    size_t len = header->len - V1_PREFIX_LEN - 2;
    const char *fault;

    memcpy(line, data + V1_PREFIX_LEN, len);
    line[len] = '\0';
    if ((len == 7 && memcmp(line, "UNKNOWN", 7) == 0) ||
        (len > 7 && memcmp(line, "UNKNOWN ", 8) == 0)) {
        header->own_addresses = true; /* and whatever follows is ignored */
        return MG_PROXY_COMPLETE;
    }
    if (memchr(line, '\0', len) != NULL)
        return malformed(header, "a zero byte");
    fault = v1_fault(header, line);
    return fault != NULL ? malformed(header, fault) : MG_PROXY_COMPLETE;
}

/* A CR or an LF alone ends nothing and belongs nowhere. */
static enum mg_proxy_status
v1_read(const unsigned char *data, size_t len, struct mg_proxy_header *header)
{
    size_t max = len < V1_MAX ? len : V1_MAX, at = V1_PREFIX_LEN;

    while (at < max && data[at] != '\r' && data[at] != '\n')
        at++;
    if (at < max && data[at] == '\n')
        return malformed(header, "it ends with LF instead of CR LF");
    if (at + 1 < max && data[at + 1] != '\n')
        return malformed(header, "a CR without LF");
    if (at + 1 < max) {
        header->len = at + 2;
        return v1_take(header, data);
    }
    if (max == V1_MAX)
        return refused(header, MG_PROXY_OVERSIZE, "no CR LF in its first 107 bytes");
    return MG_PROXY_MORE;
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool
begins_with(const unsigned char *data, size_t len, const char *prefix, size_t prefix_len)
{
    return memcmp(data, prefix, len < prefix_len ? len : prefix_len) == 0;
}

enum mg_proxy_status
mg_proxy_read(const unsigned char *data, size_t len, struct mg_proxy_header *header)
{
    memset(header, 0, sizeof(*header));
    if (len == 0)
        return MG_PROXY_MORE;
    if (begins_with(data, len, SIGNATURE, SIGNATURE_LEN)) {
        header->version = 2;
        return v2_read(data, len, header);
    }
    if (begins_with(data, len, V1_PREFIX, V1_PREFIX_LEN)) {
        header->version = 1;
        return len < V1_PREFIX_LEN ? MG_PROXY_MORE : v1_read(data, len, header);
    }
    return refused(header, MG_PROXY_NONE, NULL);
}

/* ---- writing: version 1 ---------------------------------------------------------------------- */

/* The address as IPv6, IPv4 mapped, and its port. false: it is neither. */
static bool
as_inet6(const struct mg_addr *addr, unsigned char ip[16], unsigned char port[2])
{
    uint16_t number = htons(mg_addr_port(addr));

    memcpy(port, &number, 2);
    return mg_addr_ip16(addr, ip);
}

struct pair {
    unsigned char source[16], destination[16]; /* IPv6, or mapped */
    unsigned char source_port[2], destination_port[2];
    bool is_inet; /* both are mapped: they are of IPv4 */
};

/* false: not both are IP addresses. Of two that differ in their family the IPv4 one is mapped. */
static bool
pair_make(struct pair *pair, const struct mg_addr *source, const struct mg_addr *destination)
{
    struct in6_addr a, b;

    if (!as_inet6(source, pair->source, pair->source_port) ||
        !as_inet6(destination, pair->destination, pair->destination_port))
        return false;
    memcpy(&a, pair->source, sizeof(a));
    memcpy(&b, pair->destination, sizeof(b));
    pair->is_inet = IN6_IS_ADDR_V4MAPPED(&a) && IN6_IS_ADDR_V4MAPPED(&b);
    return true;
}

/* Groups of hexadecimal digits only, as the specification has it; inet_ntop may write a mapped address
 * with dots. */
static const char *
inet6_text(const unsigned char ip[16], char out[INET6_ADDRSTRLEN])
{
    inet_ntop(AF_INET6, ip, out, INET6_ADDRSTRLEN);
    if (strchr(out, '.') != NULL)
        snprintf(out, INET6_ADDRSTRLEN, "::%x:%x:%x", read16(ip + 10), read16(ip + 12),
                 read16(ip + 14));
    return out;
}

void
mg_proxy_write_v1(struct mg_buf *out, const struct mg_addr *source,
                  const struct mg_addr *destination)
{
    char source_text[INET6_ADDRSTRLEN], destination_text[INET6_ADDRSTRLEN];
    struct pair pair;

    if (!pair_make(&pair, source, destination)) {
        mg_buf_adds(out, "PROXY UNKNOWN\r\n");
        return;
    }
    if (pair.is_inet) {
        inet_ntop(AF_INET, pair.source + 12, source_text, sizeof(source_text));
        inet_ntop(AF_INET, pair.destination + 12, destination_text, sizeof(destination_text));
    } else {
        inet6_text(pair.source, source_text);
        inet6_text(pair.destination, destination_text);
    }
    mg_buf_addf(out, "PROXY TCP%d %s %s %u %u\r\n", pair.is_inet ? 4 : 6, source_text,
                destination_text, read16(pair.source_port), read16(pair.destination_port));
}

/* ---- writing: version 2 ---------------------------------------------------------------------- */

static void
fixed_add(struct mg_buf *out, unsigned char command, unsigned family)
{
    const unsigned char rest[4] = {
        command, (unsigned char)(family != FAMILY_UNSPEC ? family << 4 | TRANSPORT_STREAM : 0)};

    mg_buf_add(out, SIGNATURE, SIGNATURE_LEN);
    mg_buf_add(out, rest, sizeof(rest));
}

bool
mg_proxy_v2_begin(struct mg_buf *out, const struct mg_addr *source,
                  const struct mg_addr *destination)
{
    struct pair pair;
    size_t skipped;

    if (!pair_make(&pair, source, destination)) {
        fixed_add(out, COMMAND_LOCAL, FAMILY_UNSPEC);
        return false;
    }
    skipped = pair.is_inet ? 12 : 0;
    fixed_add(out, COMMAND_PROXY, pair.is_inet ? FAMILY_INET : FAMILY_INET6);
    mg_buf_add(out, pair.source + skipped, 16 - skipped);
    mg_buf_add(out, pair.destination + skipped, 16 - skipped);
    mg_buf_add(out, pair.source_port, 2);
    mg_buf_add(out, pair.destination_port, 2);
    return true;
}

void
mg_proxy_v2_tlv(struct mg_buf *out, unsigned type, const void *value, size_t len)
{
    const unsigned char head[TLV_HEAD] = {(unsigned char)type, (unsigned char)(len >> 8),
                                          (unsigned char)len};

    if (len > UINT16_MAX)
        return;
    mg_buf_add(out, head, sizeof(head));
    mg_buf_add(out, value, len);
}

size_t
mg_proxy_v2_ssl_begin(struct mg_buf *out, unsigned client, uint32_t verify)
{
    size_t place = out->len;
    unsigned char head[SSL_HEAD] = {(unsigned char)client};

    write32(head + 1, verify);
    mg_proxy_v2_tlv(out, MG_PROXY_SSL, head, sizeof(head));
    return place;
}

/* The two bytes at `place` become the number of bytes behind `from`. */
static void
length_set(struct mg_buf *out, size_t place, size_t from)
{
    size_t len = out->len - from;

    out->data[place] = (char)(len >> 8);
    out->data[place + 1] = (char)len;
}

void
mg_proxy_v2_ssl_end(struct mg_buf *out, size_t place)
{
    if (!out->failed)
        length_set(out, place + 1, place + TLV_HEAD);
}

int
mg_proxy_v2_end(struct mg_buf *out)
{
    static const unsigned char zeros[CRC_LEN];

    mg_proxy_v2_tlv(out, MG_PROXY_CRC32C, zeros, CRC_LEN);
    if (out->failed || out->len > MG_PROXY_HEADER_MAX)
        return -1;
    length_set(out, SIGNATURE_LEN + 2, FIXED_LEN);
    write32((unsigned char *)out->data + out->len - CRC_LEN,
            checksum((const unsigned char *)out->data, out->len, out->len - CRC_LEN));
    return 0;
}

void
mg_proxy_write_own(struct mg_buf *out, unsigned version, const struct mg_addr *local,
                   const struct mg_addr *peer)
{
    if (version == 2)
        fixed_add(out, COMMAND_LOCAL, FAMILY_UNSPEC);
    else
        mg_proxy_write_v1(out, local, peer);
}
