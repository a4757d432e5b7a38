/* An open-loop load over loopback, in one thread: a request is due every 1/RATE of a second, whether those before it were answered or
 * not, and its time counts from when it was due. The load looks for due requests every millisecond.
 *
 *   open-load PORT RATE CONNECTIONS ROUTES FRESH
 *
 * One request of FRESH has a connection of its own. The others take the keep-alive connection that has waited longest; when all are
 * busy one more is opened, up to eight times as many.
 *
 * On stdin, a character each: `i`, `o`, `n`: from now on inside a window, outside of all, or neither; `s` or the end: stop. A
 * request with any part inside is inside; one is outside that was due and answered there. Each of them is a stretch of its own.
 * On stdout: `pid N` at the first answer of each process (X-Pid), `part C` for each character, at the end a line of JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256
#define GROWTH 8
/* Microseconds. */
#define TICK 1000
#define DEADLINE 5000000L
#define PROCESSES 4096
#define STRETCHES 1024

typedef struct request {
  struct request *next; /* that waits for a connection */
  long due;
  int route;
  char part;
  bool fresh;
} request;

typedef struct peer {
  int fd;
  bool connecting;
  bool fresh;
  bool gone;
  request *asked; /* not answered yet */
  struct peer *next; /* unused one */
  size_t held;
  char bytes[4096]; /* of the answer */
} peer;

/* Times in microseconds, and where stretches begin. */
typedef struct { int *times; size_t count, room, stretches; size_t starts[STRETCHES]; } sample;

static int epoll, port;
static long connections, pooled, sent, answered, lost;
static char part = 'n';
static char why[160];
static peer *unused, *unused_last;
static request *waiting, *waiting_last;
static sample inside, outside;

static void fail(const char *call) {
  perror(call);
  exit(1);
}

static long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000L + time.tv_nsec / 1000;
}

static void watch(int fd, void *what, uint32_t events, int how) {
  struct epoll_event event = { .events = events, .data = { .ptr = what } };
  if (epoll_ctl(epoll, how, fd, &event) < 0) fail("epoll_ctl");
}

static void add(sample *to, long time) {
  if (to->count == to->room) {
    to->room = to->room == 0 ? 1 << 16 : to->room * 2;
    if ((to->times = realloc(to->times, to->room * sizeof(*to->times))) == NULL) fail("realloc");
  }
  to->times[to->count++] = (int)time;
}

static void lose(const char *reason) {
  lost++;
  if (why[0] != 0) return;
  /* The reason stands in JSON. */
  for (size_t i = 0; reason[i] != 0 && i < sizeof(why) - 1; i++)
    why[i] = reason[i] < ' ' || reason[i] == '"' || reason[i] == '\\' ? ' ' : reason[i];
}

static peer *dialled(bool fresh) {
  struct sockaddr_in address = {
    .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = { htonl(INADDR_LOOPBACK) }
  };
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) fail("socket");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno != EINPROGRESS) fail("connect");
  peer *made = calloc(1, sizeof(*made));
  if (made == NULL) fail("calloc");
  made->fd = fd;
  made->connecting = true;
  made->fresh = fresh;
  watch(fd, made, EPOLLOUT, EPOLL_CTL_ADD);
  return made;
}

static void put(const peer *one) {
  char text[256];
  int size = snprintf(text, sizeof(text), "GET /r/%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s\r\n", one->asked->route, port,
                      one->fresh ? "Connection: close\r\n" : "");
  /* A request that is not sent whole is never answered, or ends the connection: the load notices either. */
  if (send(one->fd, text, (size_t)size, MSG_NOSIGNAL) < 0 && errno == EAGAIN) lose("a request did not fit");
}

static void ask(peer *one, request *which) {
  one->asked = which;
  one->held = 0;
  if (!one->connecting) put(one);
}

static void offer(peer *one) {
  one->next = NULL;
  if (unused == NULL) unused = one;
  else unused_last->next = one;
  unused_last = one;
}

static peer *taken(void) {
  while (unused != NULL) {
    peer *one = unused;
    unused = one->next;
    if (!one->gone) return one;
    free(one);
  }
  if (pooled >= connections * GROWTH) return NULL;
  pooled++;
  return dialled(false);
}

static void begin(request *which) {
  peer *one = which->fresh ? dialled(true) : taken();
  sent++;
  if (one != NULL) return ask(one, which);
  if (waiting == NULL) waiting = which;
  else waiting_last->next = which;
  waiting_last = which;
}

/* One that is offered is freed when it is its turn. */
static void end(peer *one, const char *reason) {
  bool offered = one->asked == NULL && !one->fresh;
  if (one->asked != NULL || offered) lose(reason);
  free(one->asked);
  close(one->fd);
  one->gone = true;
  if (!one->fresh) pooled--;
  if (!offered) free(one);
}

static void serves(int pid) {
  static int known[PROCESSES], count;
  for (int i = count - 1; i >= 0; i--) if (known[i] == pid) return;
  if (count == PROCESSES) exit(1);
  known[count++] = pid;
  printf("pid %d\n", pid);
  fflush(stdout);
}

static void note(peer *one) {
  request *which = one->asked;
  const char *pid = strcasestr(one->bytes, "\r\nx-pid:");
  if (strncmp(one->bytes, "HTTP/1.1 200 ", 13) != 0 || pid == NULL) lose(one->bytes);
  else {
    long took = now() - which->due;
    answered++;
    serves(atoi(pid + 8));
    if (which->part == 'i' || part == 'i') add(&inside, took);
    else if (which->part == 'o' && part == 'o') add(&outside, took);
  }
  free(which);
  one->asked = NULL;
  if (one->fresh) return;
  if (waiting == NULL) return offer(one);
  which = waiting;
  waiting = which->next;
  ask(one, which);
}

static void hear(peer *one) {
  ssize_t got = recv(one->fd, one->bytes + one->held, sizeof(one->bytes) - 1 - one->held, 0);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) return end(one, got < 0 ? strerror(errno) : one->asked == NULL ? "closed while idle" : "closed with a request");
  if (one->asked == NULL) return end(one, "bytes that nobody asked for");
  one->held += (size_t)got;
  one->bytes[one->held] = 0;
  const char *body = strstr(one->bytes, "\r\n\r\n");
  if (body == NULL) return;
  const char *length = strcasestr(one->bytes, "\r\ncontent-length:");
  size_t whole = length == NULL || length > body ? 0 : (size_t)(body + 4 - one->bytes) + (size_t)atol(length + 17);
  if (whole == 0 || one->held > whole || whole >= sizeof(one->bytes)) return end(one, "an answer of another length");
  if (one->held == whole) note(one);
}

static void connected(peer *one) {
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(one->fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) return end(one, strerror(error));
  one->connecting = false;
  watch(one->fd, one, EPOLLIN, EPOLL_CTL_MOD);
  if (one->asked != NULL) put(one);
}

static void stretch(sample *of) {
  if (of->stretches == STRETCHES) exit(1);
  of->starts[of->stretches++] = of->count;
}

/* Returns false if the load must stop. */
static bool told(void) {
  char text[16];
  ssize_t got = read(0, text, sizeof(text));
  for (ssize_t i = 0; i < got; i++) {
    if (text[i] == 's') return false;
    part = text[i];
    if (part == 'i') stretch(&inside);
    else if (part == 'o') stretch(&outside);
    printf("part %c\n", part);
    fflush(stdout);
  }
  return got > 0;
}

static int ticking(void) {
  struct itimerspec every = { { 0, TICK * 1000L }, { 0, TICK * 1000L } };
  int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (fd < 0 || timerfd_settime(fd, 0, &every, NULL) < 0) fail("timerfd");
  return fd;
}

static int later(const void *a, const void *b) {
  int x = *(const int *)a, y = *(const int *)b;
  return (x > y) - (x < y);
}

/* In milliseconds; sorts them. */
static double p99(int *times, size_t count) {
  qsort(times, count, sizeof(*times), later);
  return count == 0 ? 0 : times[count * 99 / 100] / 1e3;
}

static void report(const char *name, sample *of) {
  printf("\"%s\":{\"count\":%zu,\"each\":[", name, of->count);
  for (size_t i = 0; i < of->stretches; i++) {
    size_t start = of->starts[i], end = i + 1 < of->stretches ? of->starts[i + 1] : of->count;
    printf("%s%.3f", i == 0 ? "" : ",", p99(of->times + start, end - start));
  }
  printf("],\"p99\":%.3f},", p99(of->times, of->count));
}

int main(int argc, char **argv) {
  if (argc < 6) return 2;
  port = atoi(argv[1]);
  connections = atol(argv[3]);
  long rate = atol(argv[2]), routes = atol(argv[4]), fresh = atol(argv[5]);
  if ((epoll = epoll_create1(EPOLL_CLOEXEC)) < 0) fail("epoll_create1");
  int timer = ticking();
  watch(0, &epoll, EPOLLIN, EPOLL_CTL_ADD);
  watch(timer, &timer, EPOLLIN, EPOLL_CTL_ADD);
  long begun = now(), stopped = 0, number = 0, route = 0, lag = 0;
  while (stopped == 0 || (answered + lost < sent && now() < stopped + DEADLINE)) {
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(epoll, events, EVENTS, -1);
    for (int i = 0; i < ready; i++) {
      peer *one = events[i].data.ptr;
      if (one == (void *)&epoll) {
        if (told()) continue;
        stopped = now();
        watch(0, NULL, 0, EPOLL_CTL_DEL);
      } else if (one == (void *)&timer) {
        unsigned long ticks;
        if (read(timer, &ticks, sizeof(ticks)) < 0 || stopped != 0) continue;
        for (long time = now(), due; (due = begun + (number + 1) * 1000000 / rate) <= time;) {
          number++;
          if (time - due > lag) lag = time - due;
          /* A stride that visits every route. */
          route = (route + 7919) % routes;
          request *which = calloc(1, sizeof(*which));
          if (which == NULL) fail("calloc");
          *which = (request){ .due = due, .route = (int)route, .part = part, .fresh = number % fresh == 0 };
          begin(which);
        }
      } else if (one->connecting) connected(one);
      else hear(one);
    }
  }
  lost += sent - answered - lost;
  printf("{");
  report("inside", &inside);
  report("outside", &outside);
  printf("\"perSecond\":%.1f,\"lost\":%ld,\"why\":\"%s\",\"lagMs\":%.1f}\n", (double)answered * 1e6 / (double)(stopped - begun), lost,
         why, (double)lag / 1e3);
  return 0;
}
