# Prints, as JSON, the hosts that pip takes packages from. Without arguments
# nothing is fetched; with names of packages, their index pages are, and the
# hosts are those of the files that stand there.
import json
import sys
from urllib.parse import urlsplit

from pip._internal.commands import create_command

command = create_command("install")
options, _ = command.parse_args([])
indexes = [] if options.no_index else [options.index_url, *options.extra_index_urls]
urls = list(indexes) + [link for link in options.find_links if "://" in link]
complete = True
for index in indexes:
    try:
        from pip._internal.models.index import PyPI

        known = index.rstrip("/") == PyPI.simple_url.rstrip("/")
        files = PyPI.file_storage_domain
    except (ImportError, AttributeError):
        known = False
    if known:
        urls.append("https://" + files)
    else:
        complete = False
if sys.argv[1:]:
    from pip._vendor.packaging.requirements import Requirement

    complete = True
    with command.main_context():
        session = command._build_session(options)
        finder = command._build_package_finder(options, session)
        for text in sys.argv[1:]:
            for candidate in finder.find_all_candidates(Requirement(text).name):
                urls.append(candidate.link.url)
hosts = {urlsplit(url).hostname for url in urls}
print(json.dumps({"hosts": sorted(filter(None, hosts)), "complete": complete}))
