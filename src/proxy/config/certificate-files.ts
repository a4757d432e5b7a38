import { readText } from '../../checks/files.js'
import { type Place, shortJson } from '../../checks/place.js'
import { type CertificateConfig, readMaterial, WrongMaterial } from '../tls/material.js'

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
