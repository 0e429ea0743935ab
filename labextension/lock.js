// What the lockfile says about people and places is not needed to install from it: versions and checksums stay.
const fs = require('fs');
const lock = JSON.parse(fs.readFileSync('package-lock.json', 'utf8'));
for (const entry of Object.values(lock.packages)) {
  delete entry.funding;
  delete entry.resolved;
}
fs.writeFileSync('package-lock.json', JSON.stringify(lock, null, 2) + '\n');
