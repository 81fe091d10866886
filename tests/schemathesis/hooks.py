"""What the fuzzer is told about the gateway beforehand."""
import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    """No invented name of a package reaches an installer: each becomes an option,
    which no grammar of names allows."""
    try:
        packages = case.body["request"]["installPackages"]
    except (KeyError, TypeError, IndexError):
        return
    if isinstance(packages, list):
        case.body["request"]["installPackages"] = [
            f"-{name}" if isinstance(name, str) else name for name in packages
        ]
