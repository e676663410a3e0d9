/* Any bytes as a PROXY header, and addresses from them written as one. */
#include "proxy/internal.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void
need(bool holds)
{
    if (!holds)
        __builtin_trap();
}

/* What was read whole is the same however it was cut, and can be written and read again. */
static void
complete(const uint8_t *data, const struct mg_proxy_header *header)
{
    struct mg_proxy_tlvs list = header->tlvs;
    struct mg_proxy_header again;
    struct mg_proxy_tlv tlv;
    struct mg_buf out = {0};
    size_t size = 0;
    bool is_ip = mg_proxy_v2_begin(&out, &header->source, &header->destination);

    need(mg_proxy_read(data, header->len, &again) == MG_PROXY_COMPLETE && again.len == header->len);
    for (size_t cut = 0; cut < header->len && cut < 300; cut++)
        need(mg_proxy_read(data, cut, &again) == MG_PROXY_MORE);
    while (mg_proxy_tlv_next(&list, &tlv)) {
        size += 3 + tlv.len;
        if (is_ip && tlv.type != MG_PROXY_CRC32C)
            mg_proxy_v2_tlv(&out, tlv.type, tlv.value, tlv.len);
    }
    need(size == header->tlvs.len);
    if (!is_ip || mg_proxy_v2_end(&out) == 0)
        need(mg_proxy_read((unsigned char *)out.data, out.len, &again) == MG_PROXY_COMPLETE &&
             again.len == out.len && again.own_addresses == !is_ip);
    mg_buf_free(&out);
    mg_proxy_write_v1(&out, &header->source, &header->destination);
    need(mg_proxy_read((unsigned char *)out.data, out.len, &again) == MG_PROXY_COMPLETE &&
         again.len == out.len);
    mg_buf_free(&out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const char *const begins[] = {"", "PROXY ", "\r\n\r\n\0\r\nQUIT\n"};
    static const size_t lengths[] = {0, 6, 12};
    size_t kind = len > 0 ? data[0] % 3u : 0, head = lengths[kind];
    uint8_t *bytes = mg_malloc(len + head + 1);
    struct mg_proxy_header header;

    if (bytes == NULL)
        return 0;
    memcpy(bytes, begins[kind], head);
    if (len > 1)
        memcpy(bytes + head, data + 1, len - 1);
    len = len > 0 ? head + len - 1 : head;
    if (mg_proxy_read(bytes, len, &header) == MG_PROXY_COMPLETE) {
        need(header.len <= len && header.len <= MG_PROXY_HEADER_MAX);
        complete(bytes, &header);
    }
    mg_free(bytes);
    return 0;
}
