#include "base/base.h"

#include <stdio.h>
#include <string.h>

/* Makes room for `more` bytes and the NUL; false (and failed set) without memory. */
static bool
buf_reserve(struct mg_buf *buf, size_t more)
{
    if (buf->failed)
        return false;
    if (more >= SIZE_MAX / 2 - buf->len) {
        buf->failed = true;
        return false;
    }
    size_t need = buf->len + more + 1;
    if (buf->data != NULL && need <= buf->cap)
        return true;
    size_t cap = buf->cap < 64 ? 64 : buf->cap;
    while (cap < need)
        cap *= 2;
    /* Not realloc: the old copy may hold a secret and has to be wiped. */
    char *data = mg_malloc(cap);
    if (data == NULL) {
        buf->failed = true;
        return false;
    }
    if (buf->data != NULL) {
        memcpy(data, buf->data, buf->len);
        mg_free_secret(buf->data, buf->len);
    }
    buf->data = data;
    buf->cap = cap;
    return true;
}

void
mg_buf_add(struct mg_buf *buf, const void *data, size_t len)
{
    if (!buf_reserve(buf, len))
        return;
    if (len > 0)
        memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    buf->data[buf->len] = '\0';
}

void
mg_buf_adds(struct mg_buf *buf, const char *text)
{
    mg_buf_add(buf, text, strlen(text));
}

void
mg_buf_addv(struct mg_buf *buf, const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    if (len < 0 || !buf_reserve(buf, (size_t)len))
        return;
    vsnprintf(buf->data + buf->len, (size_t)len + 1, fmt, args);
    buf->len += (size_t)len;
}

void
mg_buf_addf(struct mg_buf *buf, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    mg_buf_addv(buf, fmt, args);
    va_end(args);
}

/* Bytes of the UTF-8 character at text (RFC 3629: no overlong forms, no surrogates), or 0. */
static size_t
utf8_length(const unsigned char *text, size_t len)
{
    unsigned char c = text[0];
    if (c < 0x80)
        return 1;
    size_t need = c >= 0xC2 && c <= 0xDF   ? 2
                  : c >= 0xE0 && c <= 0xEF ? 3
                  : c >= 0xF0 && c <= 0xF4 ? 4
                                           : 0;
    if (need == 0 || need > len)
        return 0;
    for (size_t i = 1; i < need; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    if ((c == 0xE0 && text[1] < 0xA0) || (c == 0xED && text[1] > 0x9F) ||
        (c == 0xF0 && text[1] < 0x90) || (c == 0xF4 && text[1] > 0x8F))
        return 0;
    return need;
}

void
mg_buf_add_json(struct mg_buf *buf, const char *data, size_t len)
{
    const unsigned char *text = (const unsigned char *)data;
    mg_buf_add(buf, "\"", 1);
    for (size_t i = 0; i < len;) {
        unsigned char c = text[i];
        size_t n = utf8_length(text + i, len - i);
        if (n == 0) {
            mg_buf_adds(buf, "\xEF\xBF\xBD");
            i++;
        } else {
            if (c == '"' || c == '\\')
                mg_buf_addf(buf, "\\%c", c);
            else if (c == '\n')
                mg_buf_adds(buf, "\\n");
            else if (c < 0x20 || c == 0x7F)
                mg_buf_addf(buf, "\\u%04x", c);
            else if (c == 0xC2 && text[i + 1] < 0xA0) /* controls of terminals, too */
                mg_buf_addf(buf, "\\u%04x", text[i + 1]);
            else
                mg_buf_add(buf, text + i, n);
            i += n;
        }
    }
    mg_buf_add(buf, "\"", 1);
}

/* Bytes of the character at text, or 0 if it is none, or one that controls a terminal: U+0080 to U+009F do, too. */
static size_t
printable_length(const unsigned char *text, size_t len)
{
    unsigned char c = text[0];
    size_t n = utf8_length(text, len);
    bool control = c < 0x20 || c == 0x7F || (c == 0xC2 && n == 2 && text[1] < 0xA0);

    return control ? 0 : n;
}

void
mg_buf_add_printable(struct mg_buf *buf, const char *data, size_t len)
{
    const unsigned char *text = (const unsigned char *)data;
    for (size_t i = 0; i < len;) {
        size_t n = text[i] == '\\' ? 0 : printable_length(text + i, len - i);
        if (n > 0)
            mg_buf_add(buf, text + i, n);
        else
            mg_buf_addf(buf, "\\x%02x", text[i]);
        i += n > 0 ? n : 1;
    }
}

bool
mg_text_is_printable(const char *data, size_t len)
{
    const unsigned char *text = (const unsigned char *)data;
    size_t n = 1;
    for (size_t i = 0; i < len && n > 0; i += n)
        n = printable_length(text + i, len - i);
    return n > 0;
}

const char *
mg_text_show(const char *data, size_t len, char out[MG_TEXT_SHOWN])
{
    static const char more[] = "...";
    const unsigned char *text = (const unsigned char *)data;
    size_t used = 0;
    for (size_t i = 0; i < len;) {
        size_t n = printable_length(text + i, len - i);
        char piece[8];
        if (n > 0)
            memcpy(piece, text + i, n);
        else
            snprintf(piece, sizeof(piece), "\\x%02x", text[i]);
        size_t piece_len = n > 0 ? n : 4;
        if (used + piece_len + sizeof(more) > MG_TEXT_SHOWN) {
            memcpy(out + used, more, sizeof(more));
            return out;
        }
        memcpy(out + used, piece, piece_len);
        used += piece_len;
        i += n > 0 ? n : 1;
    }
    out[used] = '\0';
    return out;
}

char *
mg_buf_take(struct mg_buf *buf)
{
    if (!buf->failed && buf->data == NULL)
        mg_buf_add(buf, "", 0);
    char *data = buf->failed ? NULL : buf->data;
    if (buf->failed)
        mg_free(buf->data);
    *buf = (struct mg_buf){0};
    return data;
}

void
mg_buf_free(struct mg_buf *buf)
{
    mg_free(buf->data);
    *buf = (struct mg_buf){0};
}

void
mg_buf_free_secret(struct mg_buf *buf)
{
    mg_free_secret(buf->data, buf->len);
    *buf = (struct mg_buf){0};
}
