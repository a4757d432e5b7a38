import type { SecureContext } from 'node:tls'
import { nodeTls } from '../../base/lazy.js'
import type { Origin } from '../entries/overlay.js'
import { type CertificateMaterial, lookupNames } from './material.js'

/** Chooses a certificate by server name: exact names before wildcards, run-time certificates before the file's, then by position. The default is the file's first certificate. */
export class CertificateTable {
  #file: readonly CertificateMaterial[] = []
  #runtime: readonly CertificateMaterial[] = []
  #byName = new Map<string, CertificateMaterial>()
  /** The first certificate of each kind of key. */
  kinds: ReadonlyMap<string, CertificateMaterial> = new Map()
  readonly #contexts = new WeakMap<CertificateMaterial, SecureContext>()

  /** Replaces only the lists that are given. */
  replace(lists: { file?: readonly CertificateMaterial[]; runtime?: readonly CertificateMaterial[] }): void {
    this.#file = lists.file ?? this.#file
    this.#runtime = lists.runtime ?? this.#runtime
    const kinds = new Map<string, CertificateMaterial>()
    for (const material of [...this.#file, ...this.#runtime])
      if (!kinds.has(material.keyKind)) kinds.set(material.keyKind, material)
    this.kinds = kinds
    this.#byName = new Map()
    for (const material of [...this.#runtime, ...this.#file]) {
      for (const name of material.names) if (!this.#byName.has(name)) this.#byName.set(name, material)
    }
  }

  get defaultCertificate(): CertificateMaterial | undefined {
    return this.#file[0]
  }

  find(serverName: string): CertificateMaterial | undefined {
    const [exact, wildcard] = lookupNames(serverName)
    return this.#byName.get(exact) ?? this.#byName.get(wildcard) ?? this.defaultCertificate
  }

  hasInFile(name: string): boolean {
    return this.#file.some(({ names }) => names.includes(name))
  }

  /** Reports how this process uses a stored certificate, which it finds by fingerprint and names. */
  statusOf(
    origin: Origin,
    { fingerprint, names }: { fingerprint: string; names: readonly string[] },
  ): { inForce: string[]; standard: boolean } {
    const all = origin === 'file' ? this.#file : this.#runtime
    const isSame = (candidate: CertificateMaterial) =>
      candidate.fingerprint === fingerprint && candidate.names.join() === names.join()
    const material = all.find(isSame)
    const inForce = material?.names.filter(name => this.#byName.get(name) === material) ?? []
    return { inForce, standard: material !== undefined && material === this.defaultCertificate }
  }

  contextFor(material: CertificateMaterial): SecureContext {
    let context = this.#contexts.get(material)
    if (context === undefined) {
      const { chain: cert, key } = material
      this.#contexts.set(material, (context = nodeTls().createSecureContext({ cert, key })))
    }
    return context
  }
}
