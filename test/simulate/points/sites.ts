import { SourceMap } from 'node:module'

const MAP = /\/\/# sourceMappingURL=data:application\/json;base64,(\S+)\s*$/
const DEPTH = 30
const BUNDLE = 'fd-broker.js'

/** Finds where in `src` the calls of simulated processes are made. */
export class Sites {
  readonly #map: SourceMap
  readonly #names = new Map<number, string>()
  constructor(text: string) {
    const [, encoded] = MAP.exec(text)!
    this.#map = new SourceMap(JSON.parse(Buffer.from(encoded!, 'base64').toString()))
  }

  /** Returns the place of the code that runs now: the innermost one outside `src/kernel`; null if the program of the scenario calls. */
  here(): string | null {
    let place: string | null = null
    for (const each of this.stack()) {
      place = each
      if (!each.startsWith('kernel/')) break
    }
    return place
  }

  /** The places in `src` of the code that runs now, the innermost first. */
  stack(): string[] {
    const { prepareStackTrace, stackTraceLimit } = Error
    Error.stackTraceLimit = DEPTH
    Error.prepareStackTrace = (_, frames) => frames
    const frames = new Error().stack as unknown as NodeJS.CallSite[]
    Error.prepareStackTrace = prepareStackTrace
    Error.stackTraceLimit = stackTraceLimit
    return frames
      .filter(frame => frame.getFileName() === BUNDLE)
      .map(frame => this.#place(frame.getLineNumber()!, frame.getColumnNumber()!))
      .filter(place => place !== '')
  }

  #place(line: number, column: number): string {
    const key = line * 10_000 + column
    const known = this.#names.get(key)
    if (known !== undefined) return known
    const entry = this.#map.findEntry(line - 1, column - 1)
    const [, file] =
      ('originalSource' in entry && /^(?!.*node_modules).*?src\/(.*)$/.exec(entry.originalSource)) || []
    const place = file === undefined ? '' : `${file}:${(entry as { originalLine: number }).originalLine + 1}`
    this.#names.set(key, place)
    return place
  }
}
