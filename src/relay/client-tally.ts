/** Open connections by the IP address of their client. Those without one, of Unix sockets, are not counted. */
export class ClientTally {
  readonly #open = new Map<string, number>()

  of(address: string): number {
    return this.#open.get(address) ?? 0
  }

  add(address: string): void {
    if (address !== '') this.#open.set(address, this.of(address) + 1)
  }

  remove(address: string): void {
    const left = this.of(address) - 1
    if (left > 0) this.#open.set(address, left)
    else this.#open.delete(address)
  }
}
