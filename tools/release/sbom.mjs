// @ts-check
// Software bill of materials of a release (CycloneDX 1.5): the packages bundled in the tarball, and those that npm installs with it.

/** The property with which `npm sbom` marks a bundled package. */
const INSIDE = { name: 'cdx:npm:package:bundled', value: 'true' }

/** @param {{ name: string, version: string }} of */
const refOf = ({ name, version }) => `${name}@${version}`

/** @param {{ name: string, version: string }} of */
const purlOf = ({ name, version }) => `pkg:npm/${name.replace('@', '%40')}@${version}`

/**
 * Converts a checksum of a lock file (`sha512-…`).
 *
 * @param {string} integrity
 */
function hashesOf(integrity) {
  const [algorithm = '', value = ''] = integrity.split('-', 2)
  if (!/^sha(256|384|512)$/.test(algorithm)) return []
  return [{ alg: algorithm.replace('sha', 'SHA-'), content: Buffer.from(value, 'base64').toString('hex') }]
}

/** @param {string} license an SPDX identifier or expression */
const licensesOf = license =>
  license === 'NOASSERTION'
    ? []
    : [/ (OR|AND|WITH) /.test(license) ? { expression: license } : { license: { id: license } }]

/** @param {import('./shipped.mjs').Shipped} shipped */
function componentOf(shipped) {
  const { name, version, license, integrity, resolved, inside } = shipped
  return {
    'bom-ref': refOf(shipped),
    type: 'library',
    name,
    version,
    scope: 'required',
    hashes: hashesOf(integrity),
    licenses: licensesOf(license),
    purl: purlOf({ name, version }),
    ...(inside && { properties: [INSIDE] }),
    externalReferences: resolved.startsWith('https:') ? [{ type: 'distribution', url: resolved }] : [],
  }
}

/**
 * Returns the bill. The same tarball and time give the same bill.
 *
 * @param {object} of
 * @param {any} of.manifest package.json
 * @param {{ url: string, decided: boolean }} of.home of the project
 * @param {string} of.sha256 of the tarball, hexadecimal
 * @param {Date} of.time of the commit
 * @param {readonly import('./shipped.mjs').Shipped[]} of.shipped
 */
export function billOf({ manifest, home, sha256, time, shipped }) {
  const { name, version, description, license } = manifest
  const root = { name, version }
  // A package that is both installed and bundled is listed as bundled.
  const once = new Map(shipped.map(one => [refOf(one), one]))
  for (const one of shipped) if (one.inside) once.set(refOf(one), one)
  const components = [...once.values()].sort((a, b) => (refOf(a) < refOf(b) ? -1 : 1))
  const refs = new Map(shipped.map(one => [one.path, refOf(one)]))
  /** @param {import('./shipped.mjs').Shipped} one */
  const needed = ({ needs }) => [...new Set(needs.flatMap(path => refs.get(path) ?? []))].sort()
  const indirect = new Set(shipped.flatMap(needed))
  const direct = components.filter(
    one => one.name in (manifest.dependencies ?? {}) || !indirect.has(refOf(one)),
  )
  return {
    $schema: 'http://cyclonedx.org/schema/bom-1.5.schema.json',
    bomFormat: 'CycloneDX',
    specVersion: '1.5',
    serialNumber: `urn:uuid:${uuidOf(sha256)}`,
    version: 1,
    metadata: {
      timestamp: time.toISOString(),
      lifecycles: [{ phase: 'build' }],
      component: {
        'bom-ref': refOf(root),
        type: 'library',
        name,
        version,
        description,
        hashes: [{ alg: 'SHA-256', content: sha256 }],
        licenses: licensesOf(license),
        purl: purlOf(root),
        externalReferences: home.decided ? [{ type: 'vcs', url: home.url }] : [],
      },
    },
    components: components.map(componentOf),
    dependencies: [
      { ref: refOf(root), dependsOn: direct.map(refOf) },
      ...components.map(one => ({ ref: refOf(one), dependsOn: needed(one) })),
    ],
  }
}

/** Returns a UUID (version 8) with the digits of a hash. @param {string} hex */
function uuidOf(hex) {
  const variant = ((Number.parseInt(hex[16] ?? '0', 16) & 3) | 8).toString(16)
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}
