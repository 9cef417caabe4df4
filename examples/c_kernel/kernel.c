/* A quantizer in plain C behind refquant's pipe.
 *
 *     cc -O2 -std=c11 -ffp-contract=off -o kernel kernel.c -lm
 *     refquant conform --pipe ./kernel
 *
 * It has rounding.half_even, and uniform.quantize for three schemes on float32; whatever else it is asked of them it skips, saying why.
 * The arithmetic is in quantize_tile(). Everything above it moves numbers: questions are canonical JSON (no spaces, no escapes, arrays in
 * base64), so a value is found by looking for its key. A question that is not understood ends the program, and the report says so.
 * -ffp-contract=off, because a fused multiply-add rounds once where the definition rounds twice.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- JSON and base64: just what the pipe needs ----------------------------------------------------------------------------------- */

static void give_up(const char *why) {
    fprintf(stderr, "kernel: %s\n", why);
    exit(1);
}

static void *memory(size_t bytes) {
    void *found = malloc(bytes ? bytes : 1);
    if (!found) give_up("out of memory");
    return found;
}

/* Where the value of a key begins, or NULL. Keys that are asked for occur once in a question. */
static const char *value_of(const char *line, const char *key) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *found = strstr(line, quoted);
    return found ? found + strlen(quoted) : NULL;
}

static int is_text(const char *value, const char *text) {
    size_t length = strlen(text);
    return value && value[0] == '"' && !strncmp(value + 1, text, length) && value[length + 1] == '"';
}

static long whole(const char *line, const char *key) {
    const char *value = value_of(line, key);
    if (!value) give_up("a number is missing");
    return !strncmp(value, "null", 4) ? 0 : strtol(value, NULL, 10);
}

static const char LETTERS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* The bytes of a base64 text up to its closing quote. */
static unsigned char *decoded(const char *text, size_t *bytes) {
    unsigned char *out = memory(strlen(text));
    uint32_t bits = 0;
    int held = 0;
    for (*bytes = 0; *text && *text != '"' && *text != '='; text++) {
        const char *letter = strchr(LETTERS, *text);
        if (!letter) give_up("data that is no base64");
        bits = bits << 6 | (uint32_t)(letter - LETTERS);
        held += 6;
        if (held >= 8) {
            held -= 8;
            out[(*bytes)++] = (unsigned char)(bits >> held);
        }
    }
    return out;
}

static void print_base64(const void *data, size_t bytes) {
    const unsigned char *in = data;
    for (size_t i = 0; i < bytes; i += 3) {
        uint32_t three = (uint32_t)in[i] << 16 | (i + 1 < bytes ? (uint32_t)in[i + 1] << 8 : 0) | (i + 2 < bytes ? in[i + 2] : 0);
        putchar(LETTERS[three >> 18]);
        putchar(LETTERS[three >> 12 & 63]);
        putchar(i + 1 < bytes ? LETTERS[three >> 6 & 63] : '=');
        putchar(i + 2 < bytes ? LETTERS[three & 63] : '=');
    }
}

/* One output. Numbers are sent as they lie in memory, which is little-endian on every machine that this is likely to meet. */
static void print_array(const char *name, const char *dtype, long rows, long columns, const void *data, size_t bytes) {
    printf("\"%s\":{\"dtype\":\"%s\",\"shape\":[%ld", name, dtype, rows);
    if (columns >= 0) printf(",%ld", columns);
    printf("],\"data\":\"");
    print_base64(data, bytes);
    printf("\"}");
}

static void print_id(const char *line) {
    const char *id = value_of(line, "id");
    if (!id) give_up("a question without an id");
    printf("{\"id\":\"%.*s\",", (int)strcspn(id + 1, "\""), id + 1);
}

static void skip(const char *line, const char *why) {
    print_id(line);
    printf("\"skip\":\"%s\"}\n", why);
}

/* --- rounding.half_even ----------------------------------------------------------------------------------------------------------- */

static void round_half_even(const char *line, unsigned char *data, size_t bytes) {
    int is_double = is_text(value_of(line, "dtype"), "float64");
    size_t size = is_double ? 8 : 4;
    for (size_t i = 0; i < bytes / size; i++) {
        if (is_double) ((double *)data)[i] = rint(((double *)data)[i]); /* the default rounding mode is half to even */
        else ((float *)data)[i] = rintf(((float *)data)[i]);
    }
    print_id(line);
    printf("\"outputs\":{");
    print_array("y", is_double ? "float64" : "float32", (long)(bytes / size), -1, data, bytes);
    printf("}}\n");
}

/* --- uniform.quantize ------------------------------------------------------------------------------------------------------------- */

typedef struct {
    int is_signed;   /* symmetric: codes of both signs, no zero point */
    float lo, hi;    /* extreme codes */
    float steps;     /* between the ends of the range (asymmetric), or from zero to its end (symmetric) */
} Scheme;

static Scheme scheme_of(const char *line, long bits) {
    const char *name = value_of(line, "scheme");
    float half = (float)(1L << (bits - 1));
    Scheme scheme = {1, -half, half - 1, half - 1};
    if (is_text(name, "sym_narrow")) scheme.lo = 1 - half;
    if (is_text(name, "asym_incl0")) scheme = (Scheme){0, 0, 2 * half - 1, 2 * half - 1};
    return scheme;
}

static float clipped(float x, float lo, float hi) { return x < lo ? lo : x > hi ? hi : x; }

/* Scale, zero point and codes of `count` numbers; one rounding an operation, in the order of the definition. */
static void quantize_tile(const float *x, long count, Scheme scheme, float *scale, int32_t *zero, int32_t *codes) {
    float lo = 0, hi = 0;
    for (long i = 0; i < count; i++) {
        lo = fminf(lo, x[i]);
        hi = fmaxf(hi, x[i]);
    }
    if (scheme.is_signed) {
        *scale = fmaxf(fmaxf(-lo, hi), 1e-5f) / scheme.steps;
        *zero = 0;
    } else {
        if (lo == 0 && hi == 0) lo = -1, hi = 1;
        *scale = (hi - lo) / scheme.steps;
        if (*scale == 0) *scale = nextafterf(0, 1); /* the smallest positive number, not zero */
        *zero = (int32_t)clipped(rintf(-lo / *scale), scheme.lo, scheme.hi);
    }
    for (long i = 0; i < count; i++) /* clip before the cast: a float beyond the integers must not be cast */
        codes[i] = (int32_t)clipped(rintf(x[i] / *scale) + (float)*zero, scheme.lo, scheme.hi);
}

static void quantize(const char *line, const float *x) {
    long bits = whole(line, "bits"), group = whole(line, "group"), rows, columns;
    if (sscanf(value_of(line, "shape"), "[%ld,%ld]", &rows, &columns) != 2) give_up("x is no matrix");
    if (is_text(value_of(line, "granularity"), "tensor")) columns *= rows, rows = 1; /* one tile: as one long row */
    long width = group ? group : columns, tiles = (columns + width - 1) / width, count = rows * columns;
    Scheme scheme = scheme_of(line, bits);
    float *scale = memory(sizeof *scale * (size_t)(rows * tiles));
    int32_t *zero = memory(sizeof *zero * (size_t)(rows * tiles)), *codes = memory(sizeof *codes * (size_t)count);
    for (long row = 0; row < rows; row++)
        for (long tile = 0; tile < tiles; tile++) {
            long first = row * columns + tile * width, left = columns - tile * width;
            long at = row * tiles + tile;
            quantize_tile(x + first, left < width ? left : width, scheme, scale + at, zero + at, codes + first);
        }
    long shown_rows = rows, shown_columns = columns;
    sscanf(value_of(line, "shape"), "[%ld,%ld]", &shown_rows, &shown_columns);
    print_id(line);
    printf("\"outputs\":{");
    print_array("codes", "int32", shown_rows, shown_columns, codes, sizeof *codes * (size_t)count); /* any integer dtype will do */
    putchar(',');
    print_array("scale", "float32", rows, tiles, scale, sizeof *scale * (size_t)(rows * tiles));
    putchar(',');
    print_array("zero", "int32", rows, tiles, zero, sizeof *zero * (size_t)(rows * tiles));
    printf("}}\n");
    free(scale), free(zero), free(codes);
}

/* What of uniform.quantize is not here; NULL if this question can be answered. */
static const char *lacking(const char *line) {
    const char *scheme = value_of(line, "scheme");
    if (!is_text(scheme, "sym_full") && !is_text(scheme, "sym_narrow") && !is_text(scheme, "asym_incl0")) return "no such scheme here";
    if (!is_text(value_of(line, "dtype"), "float32")) return "float32 only";
    if (strncmp(value_of(line, "scale_format"), "null", 4)) return "scales stay in float32";
    if (!is_text(value_of(line, "rounding"), "half_even")) return "half to even only";
    if (is_text(value_of(line, "granularity"), "block")) return "rows and groups in rows only";
    return NULL;
}

/* --- the loop --------------------------------------------------------------------------------------------------------------------- */

static char *read_line(void) {
    size_t size = 1 << 16, used = 0;
    char *line = memory(size);
    while (fgets(line + used, (int)(size - used), stdin)) {
        used += strlen(line + used);
        if (line[used - 1] == '\n') return line;
        if (used + 1 == size && !(line = realloc(line, size *= 2))) give_up("out of memory");
    }
    free(line);
    return NULL;
}

int main(void) {
    puts("{\"protocol\":1,\"name\":\"kernel.c\",\"operations\":[\"rounding.half_even\",\"uniform.quantize\"]}");
    fflush(stdout);
    for (char *line; (line = read_line()); free(line)) {
        const char *text = value_of(line, "data");
        if (!text) give_up("a question without data");
        size_t bytes;
        unsigned char *data = decoded(text + 1, &bytes);
        int rounds = is_text(value_of(line, "operation"), "rounding.half_even");
        if (rounds) round_half_even(line, data, bytes);
        else if (lacking(line)) skip(line, lacking(line));
        else quantize(line, (const float *)data);
        fflush(stdout);
        free(data);
    }
    return 0;
}
