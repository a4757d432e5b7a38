/* The other side of bench/proxy, and its bar: what costs a proxy least, in one process each, over loopback.
 *
 *   bare server                        answers every request: 120 bytes, 10 KiB for /10k
 *   bare source BYTES                  sends so many bytes to each client
 *   bare relay PORT                    passes requests and answers on to that server, and understands as little of them as can be
 *   bare load PORT CONNECTIONS SECONDS WARM PATH HEAD
 *                                      a request on each connection, and the next when it is answered; HEAD is small,
 *                                      browser, or once: small, and no second request.
 *                                      Says `began` after WARM seconds, and at the end what it has seen
 *   bare drain PORT                    connects and reads to the end; says how many bytes
 *
 * All but the last two say their port first. All end with their stdin.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ROOM 65536
#define EVENTS 256
/* Microseconds. */
#define SLOWEST 4000000
/* A connect that was dropped is tried again after a second. */
#define DROPPED 900000

static const char SMALL[] = "Accept: */*\r\nUser-Agent: bench/1.0\r\n";
static const char BROWSER[] =
  "Connection: keep-alive\r\nCache-Control: max-age=0\r\n"
  "sec-ch-ua: \"Chromium\";v=\"130\", \"Google Chrome\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\nsec-ch-ua-mobile: ?0\r\n"
  "sec-ch-ua-platform: \"Linux\"\r\nUpgrade-Insecure-Requests: 1\r\n"
  "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n"
  "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8\r\n"
  "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n"
  "Referer: https://www.example.com/catalogue/shoes?page=3&sort=price\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
  "Accept-Language: en-US,en;q=0.9,de;q=0.8\r\n"
  "Cookie: session=3f9b0c2e8d7a4b16a5c4e3d2f1a0b9c8; consent=analytics%3Dfalse; theme=dark; cart=eyJpdGVtcyI6W119\r\n";

typedef struct peer {
  int fd;
  struct peer *other; /* relay: the connection at the other side, while an exchange is under way */
  struct peer *next;  /* relay: the next unused one */
  bool server;        /* relay: it leads to the server */
  bool connecting;
  long left;          /* of the answer's body; -1: its head has not come yet */
  size_t held;
  long since;
  char *bytes;
} peer;

static char buffer[ROOM];
static int epoll;

static void fail(const char *call) {
  perror(call);
  exit(1);
}

static long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000L + time.tv_nsec / 1000;
}

static struct sockaddr_in at(int port) {
  return (struct sockaddr_in){
    .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = { htonl(INADDR_LOOPBACK) }
  };
}

static int listening(void) {
  struct sockaddr_in address = at(0);
  socklen_t size = sizeof(address);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 4096) < 0) fail("listen");
  if (getsockname(fd, (struct sockaddr *)&address, &size) < 0) fail("getsockname");
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  return fd;
}

static void watch(int fd, void *what, uint32_t events, int how) {
  struct epoll_event event = { .events = events, .data = { .ptr = what } };
  if (epoll_ctl(epoll, how, fd, &event) < 0) fail("epoll_ctl");
}

static peer *joined(int fd, bool connecting) {
  peer *made = calloc(1, sizeof(*made));
  int one = 1;
  if (made == NULL) fail("calloc");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  made->fd = fd;
  made->left = -1;
  made->connecting = connecting;
  watch(fd, made, connecting ? EPOLLOUT : EPOLLIN, EPOLL_CTL_ADD);
  return made;
}

static peer *dialled(int port) {
  struct sockaddr_in address = at(port);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno != EINPROGRESS)) fail("connect");
  return joined(fd, true);
}

static void connected(peer *one) {
  one->connecting = false;
  watch(one->fd, one, EPOLLIN, EPOLL_CTL_MOD);
}

/* Waits until the socket takes all bytes: here a reader is never far behind. */
static void put(int fd, const char *bytes, size_t size) {
  while (size > 0) {
    ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return;
    if (sent < 0) continue;
    bytes += sent;
    size -= (size_t)sent;
  }
}

static void drop(peer *one) {
  close(one->fd);
  free(one->bytes);
  free(one);
}

/* Follows an answer; true when it has ended. */
static bool answered(peer *one, const char *bytes, size_t size) {
  if (one->left < 0) {
    const char *end = memmem(bytes, size, "\r\n\r\n", 4);
    const char *length = strcasestr(bytes, "content-length:");
    if (end == NULL || length == NULL) {
      fprintf(stderr, "an answer whose head did not come in one piece, or has no length\n");
      exit(1);
    }
    one->left = atol(length + 15) + (end + 4 - bytes);
  }
  one->left -= (long)size;
  if (one->left > 0) return false;
  one->left = -1;
  return true;
}

static void serve(peer *one, ssize_t size) {
  static char small[512], large[11000];
  static size_t small_size, large_size;
  if (small_size == 0) {
    const char *head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Thu, 20 Nov 2025 09:00:00 GMT\r\nContent-Length: %d\r\n\r\n%0*d";
    small_size = (size_t)sprintf(small, head, 120, 120, 0);
    large_size = (size_t)sprintf(large, head, 10240, 10240, 0);
  }
  if (size <= 0) return drop(one);
  if (memcmp(buffer + size - 4, "\r\n\r\n", 4) != 0) return; /* the rest of this head is still to come */
  bool ten = strncmp(buffer, "GET /10k", 8) == 0;
  put(one->fd, ten ? large : small, ten ? large_size : small_size);
}

static peer *unused;
static int server_port;

static void relay(peer *one, ssize_t size) {
  if (one->connecting) {
    connected(one);
    put(one->fd, one->bytes, one->held);
    one->held = 0;
    return;
  }
  if (size <= 0) {
    /* The server stays to the end. */
    if (one->server) exit(0);
    if (one->other != NULL) one->other->other = NULL;
    return drop(one);
  }
  if (one->server) {
    bool over = answered(one, buffer, (size_t)size);
    if (one->other != NULL) put(one->other->fd, buffer, (size_t)size);
    if (!over) return;
    if (one->other != NULL) one->other->other = NULL;
    one->other = NULL;
    one->next = unused;
    unused = one;
    return;
  }
  peer *to = one->other;
  if (to == NULL) {
    if ((to = unused) != NULL) unused = to->next;
    else {
      to = dialled(server_port);
      to->server = true;
      to->bytes = malloc(ROOM);
    }
    to->other = one;
    one->other = to;
  }
  if (!to->connecting) return put(to->fd, buffer, (size_t)size);
  memcpy(to->bytes, buffer, (size_t)size);
  to->held = (size_t)size;
}

static void loop(int listener, void (*each)(peer *, ssize_t)) {
  struct epoll_event events[EVENTS];
  watch(listener, NULL, EPOLLIN, EPOLL_CTL_ADD);
  watch(0, &epoll, EPOLLIN, EPOLL_CTL_ADD);
  for (;;) {
    int count = epoll_wait(epoll, events, EVENTS, -1);
    for (int i = 0; i < count; i++) {
      peer *one = events[i].data.ptr;
      if (one == (void *)&epoll) exit(0); /* nobody writes to stdin: it has ended */
      if (one == NULL) {
        for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0;) joined(fd, false);
      } else if (one->connecting) each(one, 0);
      else {
        ssize_t size = recv(one->fd, buffer, ROOM - 1, 0);
        if (size < 0 && errno == EAGAIN) continue;
        if (size > 0) buffer[size] = 0;
        each(one, size);
      }
    }
  }
}

static int later(const void *a, const void *b) {
  long x = *(const int *)a, y = *(const int *)b;
  return (x > y) - (x < y);
}

static void load(int port, int connections, double seconds, double warm, const char *path, const char *head) {
  char request[2048];
  int size = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: example.com\r\n%s\r\n", path,
                      strcmp(head, "browser") == 0 ? BROWSER : SMALL);
  bool once = strcmp(head, "once") == 0;
  size_t room = 1 << 20, count = 0;
  int *times = malloc(room * sizeof(*times));
  long dropped = 0, first = 0;
  for (int i = 0; i < connections; i++) {
    peer *one = dialled(port);
    one->since = now();
    one->held = 1; /* its first request */
  }
  long start = now() + (long)(warm * 1e6), end = start + (long)(seconds * 1e6), began = 0, time = now();
  while (time < end && !(once && first == connections)) {
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(epoll, events, EVENTS, 100);
    time = now();
    if (began == 0 && time >= start) {
      began = time;
      puts("began");
      fflush(stdout);
    }
    for (int i = 0; i < ready; i++) {
      peer *one = events[i].data.ptr;
      if (one->connecting) {
        connected(one);
        put(one->fd, request, (size_t)size);
        continue;
      }
      ssize_t got = recv(one->fd, buffer, ROOM - 1, 0);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) {
        fprintf(stderr, "a connection was closed\n");
        exit(1);
      }
      buffer[got] = 0;
      if (!answered(one, buffer, (size_t)got)) continue;
      long took = now() - one->since;
      if (one->held == 1) {
        one->held = 0;
        first++;
        if (took > DROPPED) dropped++;
      }
      if (began > 0) {
        if (count == room && (times = realloc(times, (room *= 2) * sizeof(*times))) == NULL) fail("realloc");
        times[count++] = (int)(took > SLOWEST ? SLOWEST : took);
      }
      if (once) continue;
      one->since = now();
      put(one->fd, request, (size_t)size);
    }
  }
  qsort(times, count, sizeof(*times), later);
  printf("{\"answers\":%zu,\"ms\":%.1f,\"p50\":%d,\"p99\":%d,\"connected\":%ld,\"dropped\":%ld}\n", count,
         (double)(time - began) / 1000, count == 0 ? 0 : times[count / 2], count == 0 ? 0 : times[count * 99 / 100], first,
         dropped + connections - first);
}

static void source(long bytes) {
  int listener = listening();
  fcntl(listener, F_SETFL, 0); /* waits for the next one */
  if (fork() != 0) {
    while (read(0, buffer, 1) > 0);
    kill(0, SIGTERM);
  }
  for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0; close(fd)) {
    for (long left = bytes; left > 0;) {
      ssize_t sent = send(fd, buffer, left < ROOM ? (size_t)left : ROOM, MSG_NOSIGNAL);
      if (sent <= 0) break;
      left -= sent;
    }
    shutdown(fd, SHUT_WR);
    while (recv(fd, buffer, ROOM, 0) > 0);
  }
}

static void drain(int port) {
  struct sockaddr_in address = at(port);
  long bytes = 0;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) fail("connect");
  for (ssize_t got; (got = recv(fd, buffer, ROOM, 0)) > 0;) bytes += got;
  printf("%ld\n", bytes);
}

int main(int argc, char **argv) {
  struct rlimit most;
  if (getrlimit(RLIMIT_NOFILE, &most) == 0) {
    most.rlim_cur = most.rlim_max;
    setrlimit(RLIMIT_NOFILE, &most);
  }
  if ((epoll = epoll_create1(EPOLL_CLOEXEC)) < 0) fail("epoll_create1");
  const char *mode = argc > 1 ? argv[1] : "";
  if (strcmp(mode, "server") == 0) loop(listening(), serve);
  else if (strcmp(mode, "source") == 0 && argc > 2) {
    setpgid(0, 0);
    source(atol(argv[2]));
  } else if (strcmp(mode, "relay") == 0 && argc > 2) {
    server_port = atoi(argv[2]);
    loop(listening(), relay);
  } else if (strcmp(mode, "load") == 0 && argc > 7)
    load(atoi(argv[2]), atoi(argv[3]), atof(argv[4]), atof(argv[5]), argv[6], argv[7]);
  else if (strcmp(mode, "drain") == 0 && argc > 2) drain(atoi(argv[2]));
  else return 2;
  return 0;
}
