// @ts-check

/**
 * The configuration of a proxy in front of the referee's servers (remote.mjs).
 * @param {{ control: string, port: number | string, tcpPort: number, backend: { http: number, tcp: number }, plain: { port: number } }} options
 */
export function edgeConfig({ control, port, tcpPort, backend, plain }) {
  return {
    service: 'edge',
    control,
    instanceHeader: 'X-Pid',
    listeners: [
      { name: 'http', address: `tcp://127.0.0.1:${port}?backlog=4096`, halfClose: true },
      { name: 'tcp', address: `tcp://127.0.0.1:${tcpPort}?backlog=4096`, forward: 'talk' },
    ],
    upstreams: {
      backend: { servers: [`http://127.0.0.1:${backend.http}`] },
      plain: { servers: [`http://127.0.0.1:${plain.port}`], keepAlive: { idle: '10m' } },
      talk: { servers: [`tcp://127.0.0.1:${backend.tcp}`] },
    },
    routes: [
      { host: 'clients.test', upstream: 'backend' },
      { host: 'plain.test', upstream: 'plain' },
      { host: '*', path: '/health', respond: { status: 200, body: 'ok\n' } },
    ],
    timeouts: { idle: '10m', tunnel: '10m' },
    drain: { timeout: '5m' },
    upgrade: { probation: '0s' },
  }
}
