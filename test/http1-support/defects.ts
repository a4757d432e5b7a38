import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Implementation } from './our-parser.js'

/** One rule of the parser switched off, by changing one place of one source file. */
export interface Defect {
  name: string
  file: string
  /** Occurs exactly once in the file. */
  find: string
  replace: string
  /** So few inputs meet it that the search takes seconds: it is looked for at night. */
  rare?: true
}

/** Changes nothing: the fuzzing must find nothing in a copy. */
export const NO_DEFECT: Defect = {
  name: 'nothing is wrong',
  file: 'message.ts',
  find: 'export interface HeadFacts',
  replace: 'export interface HeadFacts',
}

/** Mistakes that were made before, here or in other parsers. The fuzzing must find every one of them. */
export const DEFECTS: readonly Defect[] = [
  {
    name: 'Content-Length beside Transfer-Encoding is believed (CL.TE)',
    file: 'message.ts',
    find: "if (this.contentLength !== undefined) throw this.#refuse('coding-with-length', line)",
    replace: '',
  },
  {
    name: 'Transfer-Encoding need only contain the word chunked (TE.TE)',
    file: 'message.ts',
    find: 'if (!this.#valueIs(line, CHUNKED_BYTES) || this.#fields.hasTab(line)) {',
    replace:
      "if (!this.#fields.value(line).toLowerCase().includes('chunked') || this.#fields.hasTab(line)) {",
  },
  {
    name: 'the last of several Content-Lengths wins (CL.CL)',
    file: 'message.ts',
    find: "if (this.contentLength !== undefined && this.#side === 'request')",
    replace: 'if (this.contentLength === -1)',
  },
  {
    name: 'the last of several Content-Lengths of an answer wins',
    file: 'message.ts',
    find: "if (this.contentLength !== length) throw this.#refuse('length-repeated', line)",
    replace: '',
  },
  {
    name: 'the first of several lengths in one line of an answer wins',
    file: 'message.ts',
    find: ' || others.some(other => other !== first)',
    replace: '',
  },
  {
    name: 'blanks in a chunk size of an answer are passed over',
    file: 'chunked.ts',
    find: 'state.count = MAX_DIGITS\n',
    replace: '\n',
    rare: true,
  },
  {
    name: 'Content-Length is read up to the first byte that is no digit',
    file: 'message.ts',
    find: 'if (digit < 0 || digit > 9) return -1',
    replace: 'if (digit < 0 || digit > 9) return at > start ? number : -1',
  },
  {
    name: 'chunk sizes may have spaces in them',
    file: 'chunked.ts',
    find: 'const digit = HEX[byte]!',
    replace: 'if (byte === 0x20) return\n  const digit = HEX[byte]!',
  },
  {
    name: 'the CRLF behind chunk data is skipped, not checked',
    file: 'chunked.ts',
    find: "case ChunkPhase.dataCr:\n        if (byte !== CR) throw new Http1Refusal('chunk-ending', at, state.side)",
    replace: 'case ChunkPhase.dataCr:',
  },
  {
    name: 'a bare LF ends a chunk extension',
    file: 'chunked.ts',
    find: 'if (byte === SEMICOLON) state.phase = ChunkPhase.extensionNameFirst\n  else if (byte === CR) {',
    replace:
      'if (byte === LF) {\n    state.phase = state.left === 0 ? ChunkPhase.trailerFirst : ChunkPhase.data\n    state.count = 0\n  } else if (byte === SEMICOLON) state.phase = ChunkPhase.extensionNameFirst\n  else if (byte === CR) {',
  },
  {
    name: 'the trailers are left for the next message',
    file: 'chunked.ts',
    find: 'state.phase = state.left === 0 ? ChunkPhase.trailerFirst : ChunkPhase.data',
    replace: 'state.phase = state.left === 0 ? ChunkPhase.lastLf : ChunkPhase.data',
  },
  {
    name: 'a field name may hold a space',
    file: 'bytes.ts',
    find: 'of `!#',
    replace: 'of ` !#',
  },
  {
    name: 'a field value may hold NUL',
    file: 'bytes.ts',
    find: 'IN_VALUE[TAB] = 1',
    replace: 'IN_VALUE[TAB] = 1\nIN_VALUE[0] = 1',
  },
  {
    name: 'a bare LF ends a field line',
    file: 'field-scanner.ts',
    find: "if (bytes[at] !== CR) throw this.#refuse(bytes[at] === LF ? 'line-ending' : 'field-value', at - base)",
    replace:
      "if (bytes[at] === LF) {\n          this.#markLine(bytes, base, this.#nameStart, this.#nameEnd, this.#valueStart, at)\n          at++\n          phase = LINE\n          continue\n        }\n        if (bytes[at] !== CR) throw this.#refuse('field-value', at - base)",
  },
  {
    name: 'white space behind a value belongs to it',
    file: 'field-scanner.ts',
    find: 'while (end > start && (bytes[end - 1] === SPACE || bytes[end - 1] === TAB)) end--',
    replace: 'if (start > end) return end',
  },
  {
    name: 'a bare LF ends a field line that has come in one piece',
    file: 'field-scanner.ts',
    find: 'if (at + 1 >= to || bytes[at] !== CR || bytes[at + 1] !== LF) break',
    replace:
      'if (bytes[at] === LF) at--\n      else if (at + 1 >= to || bytes[at] !== CR || bytes[at + 1] !== LF) break',
  },
  {
    name: 'the last byte of a line that has come in one piece is not looked at',
    file: 'field-scanner.ts',
    find: 'if (at + 1 >= to || bytes[at] !== CR || bytes[at + 1] !== LF) break',
    replace: 'if (at + 1 >= to || bytes[at] !== CR) break',
  },
  {
    name: 'four bytes of a value at a time may hold DEL',
    file: 'bytes.ts',
    find: ' | ((other - 0x01010101) & ~other)',
    replace: '',
  },
  {
    name: 'four bytes of a value at a time may hold control characters',
    file: 'bytes.ts',
    find: '(word - 0x20202020) & ~word',
    replace: '(word - 0x0b0b0b0b) & ~word',
  },
  {
    name: 'the byte in front of the LF of a request line is not looked at',
    file: 'request-reader.ts',
    find: 'bytes[end + 1] !== CR || bytes[end + 2] !== LF) return at',
    replace: 'bytes[end + 2] !== LF) return at',
  },
  {
    name: 'any byte ends a target',
    file: 'request-reader.ts',
    find: 'if (bytes[end++] !== SPACE) return at',
    replace: 'end++',
  },
  {
    name: 'the byte in front of the LF of a status line is not looked at',
    file: 'response-reader.ts',
    find: 'if (end + 1 >= to || bytes[end] !== CR || bytes[end + 1] !== LF) return at',
    replace: 'if (end + 1 >= to || bytes[end + 1] !== LF) return at',
  },
  {
    name: 'a 304 has a body',
    file: 'response-head.ts',
    find: 'status === 204 || status === 304 || request.method',
    replace: 'status === 204 || request.method',
  },
  {
    name: 'HTTP/1.0 keeps the connection without being asked',
    file: 'message.ts',
    find: " && (minor === 1 || connection.includes('keep-alive'))",
    replace: '',
  },
  {
    name: 'a field name of one letter is taken for none',
    file: 'field-scanner.ts',
    find: 'at - base === this.#nameStart)',
    replace: 'at - base <= this.#nameStart + 1)',
  },
  {
    name: 'what came of a head before is counted twice',
    file: 'head-reader.ts',
    find: 'this.consumed = at - before',
    replace: 'this.consumed = at',
  },
  {
    name: 'the digits of a chunk size are forgotten between two reads',
    file: 'framing.ts',
    find: "if (this.kind === 'chunked') {",
    replace: "if (this.phase === 0) this.left = 0\n    if (this.kind === 'chunked') {",
  },
]

const SOURCES = fileURLToPath(new URL('../../src/', import.meta.url))

/** Counts the places of the sources in which the defect can be made. */
export function placesOf({ file, find }: Defect): number {
  return readFileSync(join(SOURCES, 'http1', file), 'utf8').split(find).length - 1
}

/** Copies of the sources with one defect each, which go away with {@link close}. */
export class DefectiveCopies {
  readonly #folder = join(tmpdir(), `fd-broker-defects-${process.pid}`)
  #count = 0

  constructor() {
    mkdirSync(this.#folder, { recursive: true })
    writeFileSync(join(this.#folder, 'package.json'), '{"type":"module"}')
  }

  /** Loads the module with the defect; throws if there is not exactly one place for it. */
  async load(defect: Defect): Promise<Implementation> {
    const copy = join(this.#folder, String(this.#count++))
    cpSync(join(SOURCES, 'http1'), join(copy, 'http1'), { recursive: true })
    // Files of other rooms that the parser imports.
    for (const name of ['errors.ts', 'errors']) symlinkSync(join(SOURCES, name), join(copy, name))
    const count = placesOf(defect)
    if (count !== 1)
      throw new Error(`${count} places for the defect "${defect.name}" in ${defect.file}, must be 1`)
    const file = join(copy, 'http1', defect.file)
    writeFileSync(file, readFileSync(file, 'utf8').split(defect.find).join(defect.replace))
    // The runner compiles it. A compiler of our own would outlive the test.
    return (await import(join(copy, 'http1', 'index.ts'))) as Implementation
  }

  close(): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
