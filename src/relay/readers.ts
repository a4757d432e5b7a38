import { type HeadLimits, RequestReader, ResponseReader } from '../http1/index.js'

/**
 * Readers that stand between two heads. A head mostly comes in one piece: then a connection only borrows a reader for
 * the moment, and holds none while it is idle. One that has refused a head must not come back.
 */
export class Readers {
  readonly #limits: Partial<HeadLimits>
  #request: RequestReader | null = null
  #response: ResponseReader | null = null

  constructor(limits: Partial<HeadLimits> = {}) {
    this.#limits = limits
    this.giveRequest(this.takeRequest())
  }

  takeRequest(): RequestReader {
    const reader = this.#request ?? new RequestReader(this.#limits)
    this.#request = null
    return reader
  }

  giveRequest(reader: RequestReader): void {
    this.#request = reader
  }

  takeResponse(): ResponseReader {
    const reader = this.#response ?? new ResponseReader(this.#limits)
    this.#response = null
    return reader
  }

  giveResponse(reader: ResponseReader): void {
    this.#response = reader
  }
}
