/*
 * What libnbd makes of a server with extended headers: prints, line by line, what it agreed on and what it was told, for nbd-extended.test.ts.
 *
 *     nbd-extended URI BYTES        BYTES: of one TRIM, WRITE_ZEROES, CACHE and BLOCK_STATUS, from the second sector on
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <libnbd.h>

static int extents(void *what, const char *context, uint64_t offset, nbd_extent *list, size_t count, int *error) {
  for (size_t i = 0; i < count; i++) {
    printf("%s %s %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", (const char *)what, context, offset, list[i].length, list[i].flags);
    offset += list[i].length;
  }
  (void)error;
  return 0;
}

static int chunk(void *user, const void *data, size_t bytes, uint64_t offset, unsigned status, int *error) {
  (void)user;
  (void)data;
  (void)error;
  printf("read %" PRIu64 " %zu %s\n", offset, bytes, status == LIBNBD_READ_HOLE ? "hole" : status == LIBNBD_READ_DATA ? "data" : "error");
  return 0;
}

static void check(int result, const char *what) {
  if (result >= 0) {
    printf("%s %d\n", what, result);
    return;
  }
  fprintf(stderr, "%s: %s\n", what, nbd_get_error());
  exit(1);
}

int main(int argc, char **argv) {
  char *only[] = {"x-orion:segment", NULL};
  struct nbd_handle *nbd = nbd_create();
  uint64_t bytes;
  char buffer[65536];

  if (argc != 3 || nbd == NULL) return 2;
  bytes = strtoull(argv[2], NULL, 10);
  check(nbd_add_meta_context(nbd, "base:allocation"), "ask base:allocation");
  check(nbd_add_meta_context(nbd, "x-orion:segment"), "ask x-orion:segment");
  check(nbd_connect_uri(nbd, argv[1]), "connect");
  check(nbd_get_extended_headers_negotiated(nbd), "extended headers");
  check(nbd_can_block_status_payload(nbd), "block status payload");
  check(nbd_block_status_64(nbd, bytes, 512, (nbd_extent64_callback){.callback = extents, .user_data = "all"}, 0), "block status");
  check(nbd_block_status_64(nbd, bytes, 512, (nbd_extent64_callback){.callback = extents, .user_data = "one"}, LIBNBD_CMD_FLAG_REQ_ONE), "one");
  check(nbd_block_status_filter(nbd, bytes, 512, only, (nbd_extent64_callback){.callback = extents, .user_data = "filter"}, 0), "filter");
  check(nbd_trim(nbd, bytes, 512, 0), "trim");
  check(nbd_zero(nbd, bytes, 512, LIBNBD_CMD_FLAG_FUA), "zero");
  memset(buffer, 'x', sizeof buffer);
  check(nbd_pwrite(nbd, buffer, sizeof buffer, bytes - 65536, 0), "write");
  memset(buffer, 0, sizeof buffer);
  check(nbd_pread(nbd, buffer, sizeof buffer, bytes - 65536, 0), "read");
  for (size_t i = 0; i < sizeof buffer; i++) {
    if (buffer[i] == 'x') continue;
    fprintf(stderr, "byte %zu is wrong\n", i);
    return 1;
  }
  check(nbd_pread_structured(nbd, buffer, sizeof buffer, bytes, (nbd_chunk_callback){.callback = chunk}, 0), "structured");
  check(nbd_flush(nbd, 0), "flush");
  check(nbd_shutdown(nbd, 0), "shutdown");
  nbd_close(nbd);
  return 0;
}
