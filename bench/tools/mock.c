// Mock OpenAI-compatible upstream: one thread, epoll, HTTP/1.1 keep-alive.
// The `model` field of the request selects the behaviour, so one port serves every scenario:
//   "...-d<ms>"  delay before the first byte   "...-n<count>" number of SSE chunks   "...-g<ms>" gap between chunks
// Example: model "m-d0-n50-g20" streams 50 chunks, 20 ms apart. A gap of 0 sends all chunks at once, as fast as they
// are read: at most PUSH bytes wait here, so a million chunks towards a caller who never reads cost no memory.
// Usage: mock PORT
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct conn {
  int fd, busy, closed;
  char *in; size_t in_len, in_cap;
  char *out; size_t out_len, out_cap, out_off;
  int chunks_left, gap; int stream;
  double due; long heap_at;      // position in the timer heap, -1 when not armed
} conn;

enum { PUSH = 1 << 18 };
static int ep;
static conn **heap; static long heap_n, heap_cap;
static double now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e3 + t.tv_nsec / 1e6; }

static void heap_swap(long a, long b) { conn *t = heap[a]; heap[a] = heap[b]; heap[b] = t; heap[a]->heap_at = a; heap[b]->heap_at = b; }
static void heap_up(long i) { while (i && heap[(i - 1) / 2]->due > heap[i]->due) { heap_swap(i, (i - 1) / 2); i = (i - 1) / 2; } }
static void heap_down(long i) {
  for (;;) { long m = i, l = 2 * i + 1, r = l + 1;
    if (l < heap_n && heap[l]->due < heap[m]->due) m = l;
    if (r < heap_n && heap[r]->due < heap[m]->due) m = r;
    if (m == i) return;
    heap_swap(i, m); i = m; }
}
static void arm(conn *c, double due) {
  c->due = due;
  if (heap_n == heap_cap) heap = realloc(heap, (heap_cap = heap_cap ? heap_cap * 2 : 1024) * sizeof *heap);
  heap[heap_n] = c; c->heap_at = heap_n++; heap_up(c->heap_at);
}
static void disarm(conn *c) {
  long i = c->heap_at; if (i < 0) return;
  heap_swap(i, heap_n - 1); heap_n--; c->heap_at = -1;
  if (i < heap_n) { heap_up(i); heap_down(i); }
}

static void put(conn *c, const char *s, size_t n) {
  if (c->out_len + n > c->out_cap) c->out = realloc(c->out, c->out_cap = (c->out_len + n) * 2);
  memcpy(c->out + c->out_len, s, n); c->out_len += n;
}
static void drop(conn *c) { disarm(c); if (c->fd >= 0) close(c->fd); free(c->in); free(c->out); free(c); }
static int flush_out(conn *c) {  // 0: connection lost
  while (c->out_off < c->out_len) {
    ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
    if (n < 0) { if (errno == EAGAIN) return 1; return 0; }
    c->out_off += n;
  }
  c->out_off = c->out_len = 0; return 1;
}

static char json_body[2048]; static size_t json_len;
static const char *sse_head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\nx-request-id: req_0123456789\r\n\r\n";
static char chunk_role[512], chunk_text[512], chunk_stop[512], chunk_usage[768];
static size_t n_role, n_text, n_stop, n_usage;
static const char *chunk_done = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
static size_t frame(char *dst, const char *json) {
  char ev[768]; int n = sprintf(ev, "data: %s\n\n", json);
  return sprintf(dst, "%x\r\n%s\r\n", n, ev);
}
static void build(void) {
  char text[640]; memset(text, 0, sizeof text);
  while (strlen(text) < 600) strcat(text, "The quick brown fox jumps over the lazy dog. ");
  json_len = sprintf(json_body, "{\"id\":\"chatcmpl-9aBcDeFgHiJkLmNoPqRsTuVw\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":\"m-2026-01-01\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":210,\"completion_tokens\":140,\"total_tokens\":350,\"prompt_tokens_details\":{\"cached_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0}},\"system_fingerprint\":\"fp_0123456789\"}", text);
  const char *h = "{\"id\":\"chatcmpl-9aBcDeFgHiJkLmNoPqRsTuVw\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"m-2026-01-01\",\"system_fingerprint\":\"fp_0123456789\",\"choices\":";
  char t[768];
  sprintf(t, "%s[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}", h); n_role = frame(chunk_role, t);
  sprintf(t, "%s[{\"index\":0,\"delta\":{\"content\":\" token\"},\"finish_reason\":null}]}", h); n_text = frame(chunk_text, t);
  sprintf(t, "%s[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}", h); n_stop = frame(chunk_stop, t);
  sprintf(t, "%s[],\"usage\":{\"prompt_tokens\":210,\"completion_tokens\":50,\"total_tokens\":260}}", h); n_usage = frame(chunk_usage, t);
}

static void send_json(conn *c, const char *body, size_t n) {
  char h[256]; int k = sprintf(h, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\nx-request-id: req_0123456789\r\n\r\n", n);
  put(c, h, k); put(c, body, n);
}
static void one_chunk(conn *c) {  // the stream is: role, text..., stop, usage, [DONE]; chunks_left counts role+text+stop+usage
  int left = c->chunks_left--;
  if (left == 1) { put(c, chunk_usage, n_usage); put(c, chunk_done, strlen(chunk_done)); }
  else if (left == 2) put(c, chunk_stop, n_stop);
  else put(c, chunk_text, n_text);
}
static int param(const char *model, const char *end, char key, int dflt) {
  for (const char *p = model; p + 2 < end; p++)
    if (p[0] == '-' && p[1] == key && p[2] >= '0' && p[2] <= '9') return atoi(p + 2);
  return dflt;
}

static int serve(conn *c);
static int push(conn *c) {  // all chunks at once, while the reader keeps up; 0: connection lost
  while (c->chunks_left > 0) {
    while (c->chunks_left > 0 && c->out_len < PUSH) one_chunk(c);
    if (!flush_out(c)) return 0;
    if (c->out_off < c->out_len) return 1;  // goes on when the socket takes more
  }
  c->busy = 0; c->stream = 0;
  return 1;
}
static int progress(conn *c) {  // a delay or gap has passed; 0: connection lost
  if (!c->stream) { send_json(c, json_body, json_len); c->busy = 0; }
  else {
    if (c->stream == 1) { put(c, sse_head, strlen(sse_head)); put(c, chunk_role, n_role); c->chunks_left--; c->stream = 2; }
    else one_chunk(c);
    if (c->gap == 0) { if (!push(c)) return 0; }
    else if (c->chunks_left > 0) arm(c, c->due + c->gap);
    else { c->busy = 0; c->stream = 0; }
  }
  if (!flush_out(c)) return 0;
  return c->busy ? 1 : serve(c);
}
static int writable(conn *c) {  // the socket takes more; 0: connection lost
  if (!flush_out(c)) return 0;
  if (c->stream == 2 && c->gap == 0 && c->out_len == 0 && !push(c)) return 0;
  return c->busy ? 1 : serve(c);
}

static char *header(char *h, char *end, const char *name) {
  size_t n = strlen(name);
  for (char *p = h; p < end; ) { if (!strncasecmp(p, name, n) && p[n] == ':') return p + n + 1; p = memmem(p, end - p, "\r\n", 2); if (!p) break; p += 2; }
  return NULL;
}
static int serve(conn *c) {  // handle each complete request in the input; 0: connection lost
  while (!c->busy && c->in_len) {
    char *e = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!e) return 1;
    char *body = e + 4, *end = c->in + c->in_len; size_t used;
    char *body_end;
    char *te = header(c->in, e + 2, "transfer-encoding");
    if (te) { // chunked request body: wait for the last chunk
      char *z = memmem(body, end - body, "0\r\n\r\n", 5); if (!z) return 1; body_end = z; used = z + 5 - c->in;
    } else {
      char *cl = header(c->in, e + 2, "content-length"); size_t n = cl ? strtoul(cl, 0, 10) : 0;
      if ((size_t)(end - body) < n) return 1;
      body_end = body + n; used = body + n - c->in;
    }
    if (c->in[0] != 'P') {
      static const char m[] = "{\"object\":\"list\",\"status\":\"ok\",\"model_path\":\"m\",\"served_model_name\":\"m\",\"is_generation\":true,\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1,\"owned_by\":\"mock\"}]}";
      send_json(c, m, sizeof m - 1);
    } else {
      char *m = memmem(body, body_end - body, "\"model\"", 7), *mend = m;
      int delay = 0, count = 50; c->gap = 0;
      if (m) { m = memchr(m + 7, '"', body_end - m - 7); mend = m ? memchr(m + 1, '"', body_end - m - 1) : NULL; }
      if (m && mend) { delay = param(m, mend + 1, 'd', 0); count = param(m, mend + 1, 'n', 50); c->gap = param(m, mend + 1, 'g', 0); }
      char *s = memmem(body, body_end - body, "\"stream\"", 8);
      c->stream = 0;
      if (s) { s += 8; while (s < body_end && (*s == ' ' || *s == ':')) s++; c->stream = body_end - s >= 4 && !memcmp(s, "true", 4); }
      c->chunks_left = count < 3 ? 3 : count; c->busy = 1;
      memmove(c->in, c->in + used, c->in_len -= used);
      c->due = now_ms();
      if (delay) { arm(c, c->due + delay); return 1; }
      return progress(c);
    }
    memmove(c->in, c->in + used, c->in_len -= used);
    if (!flush_out(c)) return 0;
  }
  return 1;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN); build();
  int l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argc > 1 ? argv[1] : "9100")), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(l, (void *)&a, sizeof a) || listen(l, 4096)) { perror("listen"); return 1; }
  ep = epoll_create1(0);
  struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL}, evs[512];
  epoll_ctl(ep, EPOLL_CTL_ADD, l, &ev);
  for (;;) {
    int wait = -1;
    if (heap_n) { double d = heap[0]->due - now_ms(); wait = d <= 0 ? 0 : (int)(d + 0.999); }
    int n = epoll_wait(ep, evs, 512, wait);
    for (int i = 0; i < n; i++) {
      conn *c = evs[i].data.ptr;
      if (!c) {
        int fd;
        while ((fd = accept4(l, 0, 0, SOCK_NONBLOCK)) >= 0) {
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          c = calloc(1, sizeof *c); c->fd = fd; c->heap_at = -1; c->in = malloc(c->in_cap = 16384);
          ev.events = EPOLLIN; ev.data.ptr = c; epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
        }
        continue;
      }
      if (evs[i].events & EPOLLOUT) { if (!writable(c)) { drop(c); continue; } }
      if (evs[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        if (c->in_len == c->in_cap) c->in = realloc(c->in, c->in_cap *= 2);
        ssize_t r = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
        if (r == 0 || (r < 0 && errno != EAGAIN)) { drop(c); continue; }
        if (r > 0) { c->in_len += r; if (!serve(c)) { drop(c); continue; } }
      }
      int pending = c->out_off < c->out_len;
      ev.events = EPOLLIN | (pending ? EPOLLOUT : 0); ev.data.ptr = c;
      if (pending || (evs[i].events & EPOLLOUT)) epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev);
    }
    double t = now_ms();
    while (heap_n && heap[0]->due <= t) {
      conn *c = heap[0]; disarm(c);
      if (!progress(c)) { drop(c); continue; }
      if (c->out_off < c->out_len) { ev.events = EPOLLIN | EPOLLOUT; ev.data.ptr = c; epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev); }
    }
  }
}
