import { isMap, shortJson } from '../../checks/place.js'
import { FdbError, type Logger, type Member, type Section } from '../../index.js'
import { applyDifference, getIfReadable } from '../entries/difference.js'
import {
  additionOf,
  existsText,
  type Origin,
  Overlay,
  originOf,
  overlayKey,
  parseOverlayKey,
  whyNotRemoved,
} from '../entries/overlay.js'
import type { CertificateTable } from './certificate-table.js'
import {
  type CertificateConfig,
  type CertificateMaterial,
  canonicalName,
  readMaterial,
  validityProblem,
  WrongMaterial,
} from './material.js'
import {
  CERTIFICATES,
  type CertificateMessage,
  certificateMessage,
  certificatesSection,
  materialOf,
} from './section.js'

export const UNREADABLE = 'a certificate cannot be read and is not used'
const MAX_PEM_BYTES = 1024 * 1024

/** A stored certificate without its key. */
export interface ListedCertificate
  extends Pick<CertificateMaterial, 'names' | 'serial' | 'fingerprint' | 'notBefore' | 'notAfter'> {
  origin: Origin
  name: string
  /** The names for which this process uses the certificate; other certificates override it for the rest of its names. */
  inForce: string[]
  /** The default certificate, for clients without a server name or with an unknown one. */
  standard: boolean
  created: number
  generation: number
}

export interface CertificateAddition {
  name: string
  names: string[]
  outcome: 'added' | 'replaced' | 'unchanged'
  /** Names of the file's certificates that this one overrides. */
  shadows: string[]
  notAfter: number
  warning: string | null
}

/** The certificates of a running proxy. For a name, the newest certificate added at run time overrides the file's. */
export class LiveCertificates extends Overlay<CertificateMessage> {
  readonly #table: CertificateTable
  readonly #unsubscribe: () => void
  /** The certificates added at run time, by key. */
  readonly #runtime = new Map<string, { material: CertificateMaterial; created: number }>()

  constructor(member: Member, table: CertificateTable, logger: Logger) {
    super(member.section(CERTIFICATES, certificatesSection), member.generation, logger)
    this.#table = table
    for (const key of this.section.keys()) this.#readEntry(key)
    this.#updateTable()
    this.#unsubscribe = this.section.onChange(({ op, key }) => {
      if (op === 'clear') this.#runtime.clear()
      else if (!this.#readEntry(key)) return
      this.#updateTable()
    })
  }

  /** Changes the state so that it has the certificates of the configuration file. If this process must not write, rejects, and keeps the certificates in use. */
  write(file: readonly CertificateConfig[]): Promise<void> {
    return this.change(async () => {
      const wanted = new Map<string, CertificateMessage>()
      for (const [index, certificate] of file.entries()) {
        const stamp = { ...this.stamp, position: index + 1 }
        wanted.set(freeKey(wanted, certificate), certificateMessage(certificate, stamp))
      }
      const encode = certificatesSection.codec.encode
      const keeps = (key: string) => originOf(key) !== 'file'
      await applyDifference(this.section, wanted, { encode, keeps })
      this.#warnConflicts(file)
    })
  }

  /**
   * @param given untrusted input: `{ cert, key, names?, replace? }`, with `cert` and `key` as PEM
   * @throws ERR_FDB_CERTIFICATE; or as the state's `put`
   */
  add(given: unknown, gone?: AbortSignal): Promise<CertificateAddition> {
    return this.change(async () => {
      const { material, replace } = readAddition(given)
      const [name = ''] = material.names
      const outcome = additionOf(this.section, name, stored => sameMaterial(stored, material), replace)
      if (outcome === null) throw certificateError(existsText(name, 'certificate'))
      const shadows = material.names.filter(name => this.#table.hasInFile(name))
      if (outcome !== 'unchanged')
        await this.section.put(overlayKey('runtime', name), certificateMessage(material, this.stamp))
      // Reading the size notifies the listeners of this turn's changes, so that the certificate is in use.
      void this.section.size
      const { names, notAfter } = material
      return { name, names, outcome, shadows, notAfter, warning: validityProblem(material, Date.now()) }
    }, gone)
  }

  /**
   * @param given untrusted input: `{ name }`, the certificate's first name
   * @throws ERR_FDB_CERTIFICATE; or as the state's `delete`
   */
  remove(given: unknown, gone?: AbortSignal): Promise<{ name: string }> {
    return this.change(async () => {
      const name = canonicalName(isMap(given) && typeof given.name === 'string' ? given.name : '')
      if (typeof name !== 'string') throw certificateError(name.why)
      const missing = `no certificate made at run time has ${name} as its first name: see "fd-broker certificates list"`
      const why = whyNotRemoved(this.section, name, missing)
      if (why !== null) throw certificateError(why)
      await this.section.delete(overlayKey('runtime', name))
      void this.section.size
      return { name }
    }, gone)
  }

  /** Leaves out certificates that cannot be read. */
  list(): ListedCertificate[] {
    const listed: ListedCertificate[] = []
    for (const key of this.section.keys()) {
      const id = parseOverlayKey(key)
      const stored = id && getIfReadable(this.section, key)
      if (!id || !stored) continue
      const { names, serial, fingerprint, notBefore, notAfter, created, generation } = stored
      const { inForce, standard } = this.#table.statusOf(id.origin, stored)
      const facts = { serial, fingerprint, notBefore, notAfter, created, generation }
      listed.push({ ...id, names, inForce, standard, ...facts })
    }
    return listed.toSorted((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
  }

  stop(): void {
    this.#unsubscribe()
  }

  /** Warns about names of the file that a certificate made at run time overrides. */
  #warnConflicts(file: readonly CertificateConfig[]): void {
    const names = new Set([...this.#runtime.values()].flatMap(({ material }) => material.names))
    const conflicts = file.flatMap(certificate => certificate.names.filter(name => names.has(name)))
    const text =
      'certificates made at run time override certificates of the file (to remove them: fd-broker certificates remove)'
    this.warnNamed('names', conflicts, text)
  }

  /** Updates or removes a certificate made at run time, as in the state. Ignores other certificates, and returns false. */
  #readEntry(key: string): boolean {
    if (originOf(key) !== 'runtime') return false
    const stored = getIfReadable(this.section, key, (_, error) =>
      this.logger.warn({ err: error, key }, UNREADABLE),
    )
    if (stored === undefined) this.#runtime.delete(key)
    else this.#runtime.set(key, { material: materialOf(stored), created: stored.created })
    return true
  }

  #updateTable(): void {
    const newest = [...this.#runtime.values()].toSorted((a, b) => b.created - a.created)
    this.#table.replace({ runtime: newest.map(({ material }) => material) })
  }
}

/** Returns the state's certificates of the serving process's file. Calls `onUnreadable` for each one that cannot be read. */
export function storedCertificates(
  section: Section<CertificateMessage>,
  onUnreadable: (key: string, error: unknown) => void,
): CertificateConfig[] {
  const certificates: { certificate: CertificateConfig; position: number }[] = []
  for (const key of section.keys()) {
    if (originOf(key) !== 'file') continue
    const stored = getIfReadable(section, key, onUnreadable)
    const files = { cert: key, key }
    if (stored)
      certificates.push({ certificate: { ...materialOf(stored), files }, position: stored.position })
  }
  return certificates.toSorted((a, b) => a.position - b.position).map(({ certificate }) => certificate)
}

function freeKey(usedKeys: ReadonlyMap<string, unknown>, { names }: CertificateMaterial): string {
  const key = overlayKey('file', names[0] ?? '*')
  for (let n = 1; ; n++) {
    const candidate = n === 1 ? key : `${key}#${n}`
    if (!usedKeys.has(candidate)) return candidate
  }
}

export function readAddition(given: unknown): { material: CertificateMaterial; replace: boolean } {
  const { cert, key, names = null, replace = false } = isMap(given) ? given : {}
  for (const [what, text] of Object.entries({ cert, key })) {
    if (typeof text !== 'string') throw certificateError(`"${what}" is not a string`)
    if (text.length > MAX_PEM_BYTES)
      throw certificateError(`"${what}" has ${text.length} bytes, at most ${MAX_PEM_BYTES} are allowed`)
  }
  const material = readMaterial(cert as string, key as string, checkedNames(names))
  if (material instanceof WrongMaterial) throw certificateError(`${material.at}: ${material.why}`)
  if (material.names.length === 0) throw certificateError('cert: it has no DNS name: give names')
  return { material, replace: replace === true }
}

function checkedNames(given: unknown): string[] | null {
  if (given === null) return null
  if (!Array.isArray(given) || given.length === 0)
    throw certificateError(`names: ${shortJson(given)} is not a list of names`)
  return given.map(each => {
    const name = canonicalName(typeof each === 'string' ? each : '')
    if (typeof name !== 'string') throw certificateError(`names: ${name.why}`)
    return name
  })
}

function sameMaterial(a: CertificateMaterial, b: CertificateMaterial): boolean {
  return a.chain === b.chain && a.key === b.key && a.names.join() === b.names.join()
}

function certificateError(why: string): FdbError {
  return new FdbError('ERR_FDB_CERTIFICATE', `no certificate was changed: ${why}`)
}
