import type { World } from '../world.js'
import { fail, type Listener } from './objects.js'

const FIRST_PORT = 32_768

/** The TCP sockets that are bound to an address, as in Linux. With SO_REUSEPORT several sockets listen at one address, and each connection gets to one of them. */
export class Addresses {
  readonly #world: World
  readonly #bound = new Map<string, Set<Listener>>()

  constructor(world: World) {
    this.#world = world
  }

  /** Throws EADDRINUSE. */
  bind(socket: Listener): void {
    this.#demand(socket, 'bind')
    this.#bound.set(nameOf(socket), this.#at(nameOf(socket)).add(socket))
  }

  /** Throws EADDRINUSE: another socket may listen since this one was bound. */
  listen(socket: Listener, backlog: number): void {
    this.#demand(socket, 'listen')
    Object.assign(socket, { backlog, listens: true })
  }

  release(socket: Listener): void {
    this.#at(nameOf(socket)).delete(socket)
  }

  freePort(host: string): number {
    let port = FIRST_PORT
    while (this.#at(`${host}:${port}`).size > 0) port++
    return port
  }

  /** Returns the socket that gets the next connection; undefined if none listens. */
  receiver(name: string): Listener | undefined {
    const listening = [...this.#at(name)].filter(({ listens }) => listens)
    return listening.length < 2 ? listening[0] : listening[this.#world.below(listening.length)]
  }

  /** The names of the addresses that sockets are bound to. */
  get names(): string[] {
    return [...this.#bound].filter(([, { size }]) => size > 0).map(([name]) => name)
  }

  #at(name: string): Set<Listener> {
    return this.#bound.get(name) ?? new Set()
  }

  #demand(socket: Listener, syscall: string): void {
    for (const other of this.#at(nameOf(socket)))
      if (other !== socket && !mayShare(socket, other)) fail('EADDRINUSE', syscall)
  }
}

function nameOf({ address, port }: Listener): string {
  return `${address}:${port}`
}

function mayShare(one: Listener, other: Listener): boolean {
  return (one.reuseAddr && other.reuseAddr && !other.listens) || (one.reusePort && other.reusePort)
}
