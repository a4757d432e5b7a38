import { readFileSync } from 'node:fs'

const DYNAMIC = 6
const NEEDED_VERSIONS = 0x6ffffffe
const PT_GNU_STACK = 0x6474e551
const PT_GNU_RELRO = 0x6474e552
const [DT_NEEDED, DT_BIND_NOW, DT_FLAGS] = [1, 24, 30]
const FLAG_BIND_NOW = 8

interface Section {
  readonly type: number
  readonly offset: number
  readonly size: number
  readonly link: number
}

/** A shared library as its loader sees it: 64 bits, little-endian. */
export class Elf {
  readonly #bytes: Buffer
  readonly #sections: Section[]

  constructor(file: string) {
    this.#bytes = readFileSync(file)
    if (this.#bytes.toString('hex', 0, 6) !== '7f454c460201') throw new Error(`${file} is no ELF file`)
    this.#sections = this.#table(40, 58, 60).map(at => ({
      type: this.#bytes.readUInt32LE(at + 4),
      offset: this.#word(at + 24),
      size: this.#word(at + 32),
      link: this.#bytes.readUInt32LE(at + 40),
    }))
  }

  /** EM_X86_64 is 62, EM_AARCH64 183. */
  get machine(): number {
    return this.#bytes.readUInt16LE(18)
  }

  /** The libraries that it asks for. */
  get libraries(): string[] {
    const { link, entries } = this.#dynamic()
    return entries.filter(([tag]) => tag === DT_NEEDED).map(([, value]) => this.#text(link, value))
  }

  /** Versions of symbols that it needs of other libraries: `GLIBC_2.2.5`. */
  get versions(): string[] {
    const section = this.#sections.find(({ type }) => type === NEEDED_VERSIONS)
    if (!section) return []
    const found: string[] = []
    for (let at = section.offset, next = 1; next !== 0; at += next) {
      next = this.#bytes.readUInt32LE(at + 12)
      let aux = at + this.#bytes.readUInt32LE(at + 8)
      for (let left = this.#bytes.readUInt16LE(at + 2); left > 0; left--) {
        found.push(this.#text(section.link, this.#bytes.readUInt32LE(aux + 8)))
        aux += this.#bytes.readUInt32LE(aux + 12)
      }
    }
    return found
  }

  /** Whether data that the loader binds is read-only then, and the stack is no code. */
  get isHardened(): boolean {
    const { entries } = this.#dynamic()
    const bound = entries.some(
      ([tag, value]) => tag === DT_BIND_NOW || (tag === DT_FLAGS && (value & FLAG_BIND_NOW) !== 0),
    )
    const headers = this.#table(32, 54, 56).map(at => ({
      type: this.#bytes.readUInt32LE(at),
      executable: (this.#bytes.readUInt32LE(at + 4) & 1) !== 0,
    }))
    const stack = headers.find(({ type }) => type === PT_GNU_STACK)
    return bound && stack?.executable === false && headers.some(({ type }) => type === PT_GNU_RELRO)
  }

  #dynamic(): { link: number; entries: [tag: number, value: number][] } {
    const section = this.#sections.find(({ type }) => type === DYNAMIC)
    if (!section) throw new Error('it is linked statically')
    const entries: [number, number][] = []
    for (let at = section.offset; at < section.offset + section.size; at += 16)
      entries.push([this.#word(at), this.#word(at + 8)])
    return { link: section.link, entries }
  }

  /** Positions of the entries of a table of headers, by where its position, size of entries and count stand. */
  #table(position: number, size: number, count: number): number[] {
    const each = this.#bytes.readUInt16LE(size)
    const start = this.#word(position)
    return Array.from({ length: this.#bytes.readUInt16LE(count) }, (_, index) => start + index * each)
  }

  #word(at: number): number {
    return Number(this.#bytes.readBigUInt64LE(at))
  }

  #text(section: number, offset: number): string {
    const at = this.#sections[section]!.offset + offset
    return this.#bytes.toString('latin1', at, this.#bytes.indexOf(0, at))
  }
}
