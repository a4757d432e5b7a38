import { readFileSync, statSync } from 'node:fs'
import { type Place, shortJson } from '../../checks/place.js'
import { type CertificateConfig, readMaterial, WrongMaterial } from '../tls/material.js'

const MAX_BYTES = 1024 * 1024

/** Reads and checks the files of one item of `tls.certificates`. Reports each problem at the key that names the file. */
export function readCertificateFiles(
  files: { cert: string; key: string; names: string[] | null },
  place: Place,
): CertificateConfig | undefined {
  const chain = readText(files.cert, place.at('cert'))
  const key = chain === undefined ? undefined : readText(files.key, place.at('key'))
  if (chain === undefined || key === undefined) return undefined
  const material = readMaterial(chain, key, files.names)
  if (material instanceof WrongMaterial) {
    return place.at(material.at).wrong(`${shortJson(files[material.at])}: ${material.why}`)
  }
  if (material.names.length === 0 && place.step !== 0) {
    return place
      .at('cert')
      .wrong(
        `${shortJson(files.cert)} has no DNS name: give "names", or make it the first certificate, which is the default`,
      )
  }
  return { ...material, files: { cert: files.cert, key: files.key } }
}

/** Reads regular files of limited size only: a wrong path must neither block the proxy nor fill its memory. */
function readText(path: string, place: Place): string | undefined {
  try {
    const facts = statSync(path)
    if (!facts.isFile()) return place.wrong(`${shortJson(path)} is not a file`)
    if (facts.size > MAX_BYTES)
      return place.wrong(`${shortJson(path)} has ${facts.size} bytes, at most ${MAX_BYTES} are read`)
    return readFileSync(path, 'latin1')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    return place.wrong(`${shortJson(path)} cannot be read (${code ?? message})`)
  }
}
